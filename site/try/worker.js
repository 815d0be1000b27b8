// Pocket Diffusion, in a thread of its own so that the page stays awake. One message in, one kind of message out:
//
//   {kind: 'open', settings, threads}    fetches and starts the three networks
//       -> {kind: 'loading', done, total} in bytes, again and again; {kind: 'ready', seconds}
//   {kind: 'draw', run, tokens, empty, steps, guidance, seed, sampler}
//       run: a number by which the answers can be told from those of another run. tokens: one list of token ids for
//       each prompt. empty: those of the empty prompt. All prompts start from the same noise.
//       -> {kind: 'step', run, index, timestep, latents, clean, pictures} for every step: what the U-Net is shown, the
//          clean latents it sees in that, and these decoded, or null where decoding would hold up the run
//       -> {kind: 'done', run, latents, pictures, seconds}, or {kind: 'stopped', run}
//   {kind: 'decode', run, index, clean}  -> {kind: 'decoded', run, index, pictures}
//   {kind: 'stop'}                       ends the run that is under way, after the network that is at work
//
// Latents are Float32Arrays (4 x 16 x 16), one for each prompt; pictures Uint8ClampedArrays (128 x 128 x RGBA).
// Whatever goes wrong: {kind: 'failed', message}.

import * as ort from './onnxruntime.js';
import {fetchEach} from './files.js';
import {randn} from './noise.js';
import {SAMPLERS, cleanEstimate, guide} from './samplers.js';
import {toPixels} from './pictures.js';

const DECODING = 1 / 6;  // time spent on pictures on the way, at most, as a share of that spent on the steps

let settings, networks, ready;
let wanted = null;  // the run that goes on
let last = Promise.resolve();  // what was asked for before: one thing is done at a time

const tasks = {draw, decode};

self.onmessage = ({data}) => {
    if (data.kind === 'stop' || data.kind === 'draw') wanted = data.run ?? null;
    if (data.kind === 'stop') return;
    if (data.kind === 'open') ready = open(data);
    last = last.then(() => ready).then(() => tasks[data.kind]?.(data)).catch(error => {
        postMessage({kind: 'failed', message: error.message ?? String(error)});
    });
};

async function open({settings: given, threads}) {
    const start = performance.now();
    settings = given;
    const files = fetchEach(settings.files, settings.sizes,
        (done, total) => postMessage({kind: 'loading', done, total}));
    ort.env.wasm.numThreads = threads;
    ort.env.wasm.wasmBinary = (await files.engine).buffer;
    // The small networks are started while the large one still travels.
    const started = async part => ort.InferenceSession.create(await files[part], {executionProviders: ['wasm']});
    networks = {
        encoder: await started('text-encoder'), decoder: await started('decoder'), unet: await started('unet'),
    };
    postMessage({kind: 'ready', seconds: (performance.now() - start) / 1000});
}

/** The output of a network, which has one. inputs: typed arrays with their shapes, by name. */
async function answer(network, inputs) {
    const kind = values => values instanceof BigInt64Array ? 'int64' : 'float32';
    const tensors = Object.entries(inputs).map(
        ([name, [values, shape]]) => [name, new ort.Tensor(kind(values), values, shape)]);
    const results = await network.run(Object.fromEntries(tensors));
    return results[network.outputNames[0]].data;
}

function encoded(ids) {
    return answer(networks.encoder, {ids: [BigInt64Array.from(ids, BigInt), [1, ids.length]]});
}

/** Each of the latents as a picture. */
async function decoded(latents) {
    const pictures = [];
    for (const one of latents)
        pictures.push(toPixels(await answer(networks.decoder, {latents: [one, [1, ...settings.shape]]})));
    return pictures;
}

/** Lets messages in: a network at work lets none. */
function breathe() {
    return new Promise(done => {
        const {port1, port2} = new MessageChannel();
        port1.onmessage = () => { port1.close(); done(); };
        port2.postMessage(null);
    });
}

async function draw({run, tokens, empty, steps, guidance, seed, sampler: name}) {
    const start = performance.now();
    const sampler = SAMPLERS[name](settings.scheduler, steps);
    const guided = guidance !== 1;
    const spent = {steps: 0, pictures: 0};

    async function timed(what, work) {
        const before = performance.now(), result = await work;
        spent[what] += performance.now() - before;
        return result;
    }

    const shape = [1, ...settings.shape], noise = randn(settings.shape.reduce((a, b) => a * b), seed);
    const vectors = [];
    for (const ids of [...tokens, ...guided ? [empty] : []]) vectors.push(await encoded(ids));
    const without = guided ? vectors.pop() : null;
    // A sampler that remembers its last step needs one for each prompt.
    const samplers = tokens.map(() => SAMPLERS[name](settings.scheduler, steps));
    let latents = tokens.map(() => noise.map(value => value * sampler.scale));

    for (const [index, timestep] of sampler.timesteps.entries()) {
        const shown = latents.map(x => sampler.shown(x, index)), clean = [];
        for (const [place, x] of shown.entries()) {
            const noiseFor = words => timed('steps', answer(networks.unet, {
                latents: [x, shape],
                timestep: [Float32Array.of(timestep), [1]],
                words: [words, [1, words.length / settings.width, settings.width]],
            }));
            let eps = await noiseFor(vectors[place]);
            if (guided) eps = guide(await noiseFor(without), eps, guidance);
            clean.push(cleanEstimate(x, eps, sampler.alphaBar(index)));
            latents[place] = samplers[place].step(latents[place], eps, index);
        }
        const soon = spent.pictures <= DECODING * spent.steps && index < steps - 1;
        const pictures = soon ? await timed('pictures', decoded(clean)) : null;
        await breathe();
        if (wanted !== run) return postMessage({kind: 'stopped', run});
        postMessage({kind: 'step', run, index, timestep, latents: shown, clean, pictures});
    }
    const pictures = await decoded(latents);
    postMessage({kind: 'done', run, latents, pictures, seconds: (performance.now() - start) / 1000});
}

async function decode({run, index, clean}) {
    postMessage({kind: 'decoded', run, index, pictures: await decoded(clean)});
}
