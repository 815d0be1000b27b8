// Words that look alike, as Python's difflib finds them, so that the page offers what the notebooks offer.

/**
 * How much two words have in common (Ratcliff and Metzener, 1988): twice the letters that stand in the longest common
 * part, and in those on its left and right, over all letters. Not the same with the words exchanged.
 * @param {string} a
 * @param {string} b
 * @returns {number} from 0 to 1
 */
export function likeness(a, b) {
    const [one, other] = [[...a], [...b]];

    function matched(i0, i1, j0, j1) {
        let [best, i, j] = [0, i0, j0];
        let before = new Map();  // how long the common part is that ends at each letter of the other
        for (let p = i0; p < i1; p++) {
            const here = new Map();
            for (let q = j0; q < j1; q++) {
                if (one[p] !== other[q]) continue;
                const length = (before.get(q - 1) ?? 0) + 1;
                here.set(q, length);
                if (length > best) [best, i, j] = [length, p - length + 1, q - length + 1];
            }
            before = here;
        }
        return best && best + matched(i0, i, j0, j) + matched(i + best, i1, j + best, j1);
    }

    const letters = one.length + other.length;
    return letters ? 2 * matched(0, one.length, 0, other.length) / letters : 1;
}

/** The order of Python's strings, which is that of code points. */
function isAfter(a, b) {
    const [one, other] = [[...a], [...b]];
    const place = one.findIndex((letter, i) => letter !== other[i]);
    return place >= 0 && (place >= other.length || one[place].codePointAt(0) > other[place].codePointAt(0));
}

/**
 * `difflib.get_close_matches(word, known, n=3)`.
 * @param {string} word
 * @param {string[]} known
 * @returns {string[]} up to three of the known words, the most alike first
 */
export function nearest(word, known) {
    return known.map(name => ({name, score: likeness(name, word)})).filter(found => found.score >= 0.6)
        .sort((a, b) => b.score - a.score || (isAfter(a.name, b.name) ? -1 : 1)).slice(0, 3).map(found => found.name);
}
