// How a prompt could go on, and which of its words Pocket has never seen: `helpers/grammar.py` once more. The words
// themselves come from there, in the page's `model.json`.

import {nearest} from './nearest.js';

/** One of the phrases, the longest that fits. */
function anyOf(phrases) {
    const longestFirst = [...phrases].sort((a, b) => b.length - a.length);
    return `(?:${longestFirst.map(phrase => phrase.replace(/[.*+?^${}()|[\]\\]/g, '\\$&')).join('|')})`;
}

const END = '(?![\\p{L}\\p{N}_])';  // of a word

export class Grammar {
    /**
     * @param {object} words of helpers/grammar.py: lists of phrases in `things` ("a fox"), `coloured`, `relations`,
     *     `grounds` and `styles`; of single words in `completed`; and in `known` each single word of the captions with
     *     the names that it is part of
     */
    constructor(words) {
        Object.assign(this, words);
        this.known = new Map(Object.entries(words.known));
        const thing = anyOf([...this.things, ...this.coloured]);
        // As much of a caption as a prompt begins with; each part needs the first one.
        this.caption = new RegExp(
            `^(?:(?<one>${thing}${END})(?: (?<relation>${anyOf(this.relations)}) (?<other>${thing}${END}))?`
            + `(?<ground> ${anyOf(this.grounds)}${END})?(?<style>, ${anyOf(this.styles)} style${END})?)?`, 'u');
    }

    /**
     * Up to `limit` ways a prompt could go on. A word that is being typed is completed; a word with a slip is offered
     * as the nearest ones that Pocket knows. Coloured things are offered once a colour is typed.
     * @param {string} prompt
     * @param {number} limit at least 2
     * @returns {{added: string, prompt: string}[]} what would be added, and the whole prompt with it
     */
    suggestions(prompt, limit) {
        const text = prompt.trimStart().replace(/\s+/g, ' ');
        const match = this.caption.exec(text.toLowerCase());
        const done = text.slice(0, match[0].length), rest = text.slice(match[0].length).toLowerCase();

        for (const phrases of this.next(match.groups, rest)) {
            const offered = phrases.filter(phrase => phrase !== rest && (phrase.startsWith(rest)
                || phrase.replace(/^an? /, '').startsWith(rest.trim() || ' ')));
            if (offered.length) return spread(offered, limit).map(
                phrase => ({added: phrase.replace(/^[ ,]+|[ ,]+$/g, ''), prompt: done + phrase}));
        }

        const gap = text.lastIndexOf(' '), head = text.slice(0, Math.max(gap, 0));
        const fragment = text.slice(gap + 1).toLowerCase();
        if (!fragment || !rest) return [];  // nothing is being typed, or a whole caption is there
        let near = this.completed.filter(word => word.startsWith(fragment));
        if (!near.length) near = nearest(fragment, this.completed);
        return near.filter(word => word !== fragment).slice(0, limit)
            .map(word => ({added: word, prompt: `${head} ${word}`.trim()}));
    }

    /** The phrases that may stand after what `caption` has read, in groups: a later one counts where none before fits. */
    next({one, other, ground, style}, rest) {
        const grounds = this.grounds.map(phrase => ` ${phrase}`), styles = this.styles.map(name => `, ${name} style`);
        if (!one) return [this.things, this.coloured];
        if (style) return [];
        if (ground) return [styles];
        if (other) return [[...grounds, ...styles]];
        const relation = this.relations.find(name => rest.startsWith(` ${name}`));
        if (!relation) return [[...this.relations.map(name => ` ${name}`), ...grounds, ...styles]];
        return [this.things, this.coloured].map(phrases => phrases.map(phrase => ` ${relation} ${phrase}`));
    }

    /**
     * The words of a prompt that are in no caption, in order.
     * @param {string} prompt
     * @returns {Map<string, string[]>} each with up to three near ones that are
     */
    unknown(prompt) {
        const words = prompt.toLowerCase().match(/[\p{L}\p{N}]+(?:['\u2019][\p{L}\p{N}]+)*/gu) ?? [];
        const unknown = new Map();
        words.forEach((word, i) => {
            if (this.known.has(word)) return;
            const pairs = [words.slice(i, i + 2), words.slice(Math.max(i - 1, 0), i + 1)].map(pair => pair.join(''));
            let near = [...new Set(pairs)].filter(pair => this.known.has(pair)).sort();  // "ice cream": icecream
            if (!near.length) near = nearest(word, [...this.known.keys()]);
            unknown.set(word, [...new Set(near.flatMap(single => this.known.get(single)))].slice(0, 3));
        });
        return unknown;
    }
}

/** `count` of the items at even distances, the first and the last among them; all if there are no more. */
function spread(items, count) {
    if (items.length <= count) return items;
    return Array.from({length: count}, (_, i) => items[roundHalfToEven(i * (items.length - 1) / (count - 1))]);
}

function roundHalfToEven(number) {
    const low = Math.floor(number);
    return number - low === 0.5 ? low + low % 2 : Math.round(number);
}
