// Fetching what is large: with progress, and unpacked where it is packed.

/**
 * The bytes of files beside this one.
 * @param {Record<string, string>} files names by what they are
 * @param {Record<string, number>} sizes of each name, in bytes as they travel
 * @param {(done: number, total: number) => void} progress called with bytes
 * @returns {Record<string, Promise<Uint8Array>>} by what they are; what is called `.gzip`, unpacked
 */
export function fetchEach(files, sizes, progress) {
    const total = Object.values(files).reduce((sum, name) => sum + sizes[name], 0);
    let done = 0;

    async function fetched(name) {
        const response = await fetch(new URL(name, import.meta.url));
        if (!response.ok) throw new Error(`${name} could not be had (${response.status})`);
        let stream = response.body.pipeThrough(new TransformStream({
            transform(chunk, controller) {
                progress(done += chunk.byteLength, total);
                controller.enqueue(chunk);
            },
        }));
        if (name.endsWith('.gzip')) stream = stream.pipeThrough(new DecompressionStream('gzip'));
        return new Uint8Array(await new Response(stream).arrayBuffer());
    }

    return Object.fromEntries(Object.entries(files).map(([what, name]) => [what, fetched(name)]));
}
