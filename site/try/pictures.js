// Numbers as colours.

/**
 * A decoded picture as a canvas takes it.
 * @param {Float32Array} values 3 x H x W, from -1 (black) to 1 (white); what is beyond is cut
 * @returns {Uint8ClampedArray} H x W x RGBA
 */
export function toPixels(values) {
    const count = values.length / 3, pixels = new Uint8ClampedArray(4 * count).fill(255);
    for (let place = 0; place < count; place++)
        for (let channel = 0; channel < 3; channel++)
            pixels[4 * place + channel] = (values[channel * count + place] / 2 + 0.5) * 255;
    return pixels;
}

/**
 * One channel of latents in the colours of the course's figures, from blue (-limit) over white to red (limit).
 * @param {Float32Array} values h x w
 * @param {number[][]} colours RGB, from the lowest value to the highest
 * @param {number} limit what is beyond is cut
 * @returns {Uint8ClampedArray} h x w x RGBA
 */
export function toColours(values, colours, limit) {
    const pixels = new Uint8ClampedArray(4 * values.length);
    values.forEach((value, place) => {
        const level = Math.floor((value / limit + 1) / 2 * colours.length);
        pixels.set([...colours[Math.min(Math.max(level, 0), colours.length - 1)], 255], 4 * place);
    });
    return pixels;
}

/** Draws pixels, as the functions above give them, on a canvas that takes their size. */
export function paint(canvas, pixels) {
    const side = Math.sqrt(pixels.length / 4);
    canvas.width = canvas.height = side;
    canvas.getContext('2d').putImageData(new ImageData(pixels, side), 0, 0);
}
