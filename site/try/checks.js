// What is wrong with what was asked for, or odd, in the sentences of the playground. They come from its own checks, in
// the page's `model.json`, with {value} and the like where something is filled in.

/** A sentence with its places filled. */
function filled(sentence, values) {
    return sentence.replace(/\{(\w+)\}/g, (_, name) => values[name]);
}

/** A text as Python's `repr` writes it. */
export function quoted(text) {
    const quote = text.includes("'") && !text.includes('"') ? '"' : "'";
    const inside = text.replaceAll('\\', '\\\\').replaceAll(quote, `\\${quote}`)
        .replaceAll('\n', '\\n').replaceAll('\t', '\\t').replaceAll('\r', '\\r');
    return quote + inside + quote;
}

/** A field's value as a sentence names it: a number as it was typed, anything else in quotes. */
function named(text) {
    return text.trim() !== '' && Number.isFinite(Number(text)) ? text.trim() : quoted(text);
}

/**
 * @typedef {object} Fields what stands in the page's fields, as text
 * @property {string[]} prompts one or two
 * @property {string} steps
 * @property {string} guidance
 * @property {string} seed
 */

export class Checks {
    /**
     * @param {object} sentences of `model.json`
     * @param {object} limits of `model.json`: the least and most steps, guidance, seed (a text, as it needs 63 bits)
     * @param {Grammar} grammar
     * @param {Tokenizer} tokenizer
     */
    constructor(sentences, limits, grammar, tokenizer) {
        Object.assign(this, {sentences, limits, grammar, tokenizer});
    }

    /**
     * What the fields ask for. For the first thing that is wrong it throws a RangeError with a sentence, and with the
     * name of the field as its `field`.
     * @param {Fields} fields
     * @returns {{prompts: string[], steps: number, guidance: number, seed: bigint}}
     */
    request({prompts, steps, guidance, seed}) {
        const {sentences, limits} = this;
        const refuse = (field, value, sentence) => {
            throw Object.assign(new RangeError(filled(sentence, {value: named(value)})), {field});
        };
        if (prompts.some(prompt => !prompt.trim())) refuse('prompt', '', sentences.empty);

        const whole = text => /^\s*[+-]?\d+\s*$/.test(text) ? BigInt(text) : null;
        const within = (number, least, most) => number !== null && number >= least && number <= most;
        const strength = guidance.trim() === '' ? NaN : Number(guidance);
        if (!within(strength, 0, limits.guidance.most)) refuse('guidance', guidance, sentences.guidance);
        if (strength < limits.guidance.least) refuse('guidance', guidance, sentences.guidanceTooLow);
        if (!within(whole(steps), limits.steps.least, limits.steps.most)) refuse('steps', steps, sentences.steps);
        if (!within(whole(seed), 0n, BigInt(limits.seed.most))) refuse('seed', seed, sentences.seed);
        return {prompts, steps: Number(steps), guidance: strength, seed: whole(seed)};
    }

    /**
     * What the model will not understand of a prompt.
     * @param {string} prompt
     * @returns {string[]} sentences
     */
    notes(prompt) {
        const {sentences} = this;
        const list = words => words.map(quoted).join(', ');
        const cut = this.tokenizer.cut(prompt), unknown = [...this.grammar.unknown(prompt)];
        const far = unknown.filter(([, near]) => !near.length).map(([word]) => word);
        return [
            ...cut ? [filled(sentences.cut, {cut: quoted(cut)})] : [],
            ...unknown.filter(([, near]) => near.length)
                .map(([word, near]) => filled(sentences.near, {word: quoted(word), near: list(near)})),
            ...far.length ? [filled(sentences.far, {words: list(far)})] : [],
        ];
    }
}
