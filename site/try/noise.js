// The noise that a run starts from: the numbers of torch.randn on the CPU, so that a seed draws here what it draws in
// the notebooks. `torch.Generator("cpu").manual_seed(seed)` is the Mersenne Twister MT19937; `torch.randn` of 16 numbers
// or more fills blocks of 16 with uniform numbers and turns them into normal ones (Box and Muller, 1958).

const STATE = 624, MIDDLE = 397;  // MT19937's own sizes, in 32-bit words
const BLOCK = 16;

/**
 * MT19937 (Matsumoto and Nishimura, 1998), as torch seeds it.
 * @param {bigint} seed from 0 to 2n ** 63n - 1n, of which torch uses the lower 32 bits
 * @returns {() => number} a function that gives the next whole number from 0 to 2 ** 32 - 1
 */
export function mersenneTwister(seed) {
    const state = new Uint32Array(STATE);
    state[0] = Number(seed & 0xffffffffn);
    for (let i = 1; i < STATE; i++) {
        const before = state[i - 1] ^ (state[i - 1] >>> 30);
        state[i] = Math.imul(1812433253, before) + i;
    }
    let next = STATE;

    function twist() {
        for (let i = 0; i < STATE; i++) {
            const joined = (state[i] & 0x80000000) | (state[(i + 1) % STATE] & 0x7fffffff);
            state[i] = state[(i + MIDDLE) % STATE] ^ (joined >>> 1) ^ (joined & 1 ? 0x9908b0df : 0);
        }
        next = 0;
    }

    return () => {
        if (next === STATE) twist();
        let word = state[next++];
        word ^= word >>> 11;
        word ^= (word << 7) & 0x9d2c5680;
        word ^= (word << 15) & 0xefc60000;
        return (word ^ (word >>> 18)) >>> 0;
    };
}

/**
 * Standard normal numbers, those of `torch.randn(count, generator=torch.Generator("cpu").manual_seed(seed))`.
 * They differ from torch's by rounding alone: its logarithm and cosine are those of the processor.
 * @param {number} count at least 16: torch draws fewer in another way
 * @param {bigint} seed from 0 to 2n ** 63n - 1n
 * @returns {Float32Array} of length count; a tensor's numbers in the order of its memory
 */
export function randn(count, seed) {
    if (count < BLOCK) throw new RangeError(`count is ${count}: choose at least ${BLOCK}`);
    const random = mersenneTwister(seed);
    const uniform = () => (random() & 0xffffff) / 2 ** 24;  // 24 bits, as many as a float32 holds
    const values = new Float32Array(count);

    // Number i of a block's first half and number i of its second make two normal ones: radius and angle.
    function toNormal(start) {
        for (let i = start; i < start + BLOCK / 2; i++) {
            const radius = Math.fround(Math.sqrt(-2 * Math.fround(Math.log(1 - values[i]))));
            const angle = Math.fround(Math.fround(2 * Math.PI) * values[i + BLOCK / 2]);
            values[i] = radius * Math.fround(Math.cos(angle));
            values[i + BLOCK / 2] = radius * Math.fround(Math.sin(angle));
        }
    }

    for (let i = 0; i < count; i++) values[i] = uniform();
    for (let start = 0; start + BLOCK <= count; start += BLOCK) toNormal(start);
    if (count % BLOCK) {  // the last 16 are drawn anew, those of the last whole block among them
        const start = count - BLOCK;
        for (let i = start; i < count; i++) values[i] = uniform();
        toNormal(start);
    }
    return values;
}
