// CLIP's tokenizer, from the `tokenizer.json` of the model: lower case, words, their UTF-8 bytes, pairs joined in the
// order in which they were learnt (Sennrich et al., 2016, arXiv:1508.07909).

const LAST = '</w>';  // ends the last symbol of a word
const PARTS = /'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}+|[^\p{L}\p{N}]+/gu;  // of what stands without a gap

/**
 * Each byte as the letter that stands for it in the vocabulary: itself where it can be printed, else one from 256 on.
 * @returns {string[]} 256 letters
 */
function byteLetters() {
    const printable = byte => (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
    let spare = 256;
    return Array.from({length: 256}, (_, byte) => String.fromCodePoint(printable(byte) ? byte : spare++));
}

export class Tokenizer {
    /** @param {object} file what `tokenizer.json` holds */
    constructor(file) {
        this.length = file.truncation.max_length;
        this.vocabulary = new Map(Object.entries(file.model.vocab));
        this.ranks = new Map(file.model.merges.map((pair, rank) => [pair.join(' '), rank]));
        this.special = new Map(file.added_tokens.map(token => [token.content, token.id]));
        const names = [...this.special.keys()].map(name => name.replaceAll('|', '\\|')).join('|');
        this.specialNames = new RegExp(`(${names})`);
        this.words = new RegExp(`${names}|'s|'t|'re|'ve|'m|'ll|'d|\\p{L}+|\\p{N}|[^\\s\\p{L}\\p{N}]+`, 'gu');
        this.start = file.post_processor.cls[1];
        this.end = file.post_processor.sep[1];
        this.padding = file.padding.pad_id;
        this.letters = byteLetters();
    }

    /**
     * A prompt as the text encoder reads it: start, tokens as far as there is room, end, padding.
     * @param {string} text
     * @returns {number[]} of the tokenizer's length
     */
    encode(text) {
        const ids = [this.start, ...this.ids(text).slice(0, this.length - 2), this.end];
        return [...ids, ...Array(this.length - ids.length).fill(this.padding)];
    }

    /**
     * The end of a prompt that does not fit, from the start of a word.
     * @param {string} text
     * @returns {string} empty if all of it fits
     */
    cut(text) {
        let room = this.length - 2;
        for (const word of text.matchAll(/\S+/g)) {
            room -= this.ids(word[0]).length;
            if (room < 0) return text.slice(word.index).trim();
        }
        return '';
    }

    /**
     * All tokens of a text, however many, without start and end.
     * @param {string} text
     * @returns {number[]}
     */
    ids(text) {
        return text.split(this.specialNames).flatMap(part => {
            if (this.special.has(part)) return [this.special.get(part)];
            // Letter by letter: JavaScript would write a sigma at the end of a word in another way.
            const lower = [...part.normalize('NFC')].map(letter => letter.toLowerCase()).join('');
            const words = (lower.match(this.words) ?? []).flatMap(word => word.match(PARTS));
            return words.flatMap(word => this.join(word).map(symbol => this.vocabulary.get(symbol)));
        });
    }

    /**
     * The symbols of one word: of all neighbours in it the pair that was learnt first is joined, again and again.
     * @param {string} word
     * @returns {string[]}
     */
    join(word) {
        const symbols = Array.from(new TextEncoder().encode(word), byte => this.letters[byte]);
        symbols[symbols.length - 1] += LAST;
        const rank = i => this.ranks.get(`${symbols[i]} ${symbols[i + 1]}`) ?? Infinity;
        while (symbols.length > 1) {
            let best = 0;
            for (let i = 1; i < symbols.length - 1; i++) if (rank(i) < rank(best)) best = i;
            if (rank(best) === Infinity) break;
            // Everywhere in the word at once, from the left.
            const [first, second] = symbols.slice(best, best + 2);
            for (let i = 0; i < symbols.length - 1; i++)
                if (symbols[i] === first && symbols[i + 1] === second) symbols.splice(i, 2, first + second);
        }
        return symbols;
    }
}
