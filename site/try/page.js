// The page to draw on: what its fields ask for goes to the worker, and what the worker answers is shown, step by step.

import {Checks} from './checks.js';
import {Grammar} from './grammar.js';
import {paint, toColours} from './pictures.js';
import {SAMPLERS} from './samplers.js';
import {Tokenizer} from './tokenizer.js';

const SUGGESTIONS = 8;
const STEPS = 8;  // of DDIM the judge reads 86 pictures in 100 right, and 90 with the lessons' 20 (samplers.csv)
const LIMIT = 3;  // of the colours of latents: nearly all numbers of a standard normal are nearer to 0
const MOST_THREADS = 4;
const TILES = {  // the three pictures of a step, in the order in which a run makes them
    noisy: 'The noisy latent',
    clean: 'The clean one the U-Net sees in it',
    picture: 'The clean one, decoded',
};
const FINISHED = {...TILES, noisy: 'The finished latent', picture: 'The picture'};

const find = selector => document.querySelector(selector);
const fields = {
    prompt: find('#draw-prompt'), second: find('#draw-second'), seed: find('#draw-seed'), steps: find('#draw-steps'),
    guidance: find('#draw-guidance'), sampler: find('#draw-sampler'),
};
const [form, words, progress, card, runs] =
    ['.draw-form', '.draw-words', '.draw-go progress', '.draw-card', '.draw-runs'].map(find);
const [message, stop, slider, label] = ['#draw-message', '#draw-stop', '#draw-step', '.draw-where'].map(find);

function element(parent, tag, properties = {}) {
    return parent.appendChild(Object.assign(document.createElement(tag), properties));
}

/** Shows sentences, one a line, in place of the last ones. */
function say(...sentences) {
    message.replaceChildren(...sentences.flatMap(sentence => [sentence, document.createElement('br')]).slice(0, -1));
}

async function json(name) {
    const response = await fetch(new URL(name, import.meta.url));
    if (!response.ok) throw new Error(`${name} could not be had (${response.status})`);
    return response.json();
}

// --- one run, as far as it has come

class Run {
    /**
     * @param {number} number by which the worker's answers are told from those of other runs
     * @param {object} request what `Checks.request` gives, with the sampler's name
     */
    constructor(number, request) {
        Object.assign(this, {number, request, frames: [], done: false});
        runs.replaceChildren();
        runs.classList.toggle('draw-two', request.prompts.length > 1);
        this.rows = request.prompts.map(prompt => this.row(prompt));
        slider.max = request.steps;
        slider.value = 0;
        label.textContent = 'waiting for the first step';
        card.hidden = false;
    }

    /** The tiles of one prompt: for each of the latents four canvases, and one for the picture. */
    row(prompt) {
        const box = element(runs, 'div', {className: 'draw-one'});
        element(box, 'h2', {textContent: prompt});
        const row = {};
        for (const [name, text] of Object.entries(TILES)) {
            const figure = element(box, 'figure', {className: `draw-${name}`});
            const tile = element(figure, 'div', {className: 'draw-tile'});
            tile.setAttribute('role', 'img');
            row[name] = {tile, canvases: Array.from({length: name === 'picture' ? 1 : settings.shape[0]},
                () => element(tile, 'canvas', {width: 1, height: 1}))};
            row[name].caption = element(figure, 'figcaption', {textContent: text});
        }
        row.download = element(box, 'a', {className: 'draw-download', textContent: 'Download the picture', hidden: true});
        return row;
    }

    /** Adds a step or, at its place after the last one, the end; the slider goes along unless it was moved back. */
    add(index, frame) {
        const atEnd = Number(slider.value) >= index - 1;
        this.frames[index] = frame;
        progress.value = index / this.request.steps;
        if (atEnd) this.show(index);
    }

    show(index) {
        const frame = this.frames[index];
        slider.value = index;
        if (!frame) return;
        const steps = this.request.steps, at = index < steps ? `step ${index + 1} of ${steps}` : 'the end';
        label.textContent = index < steps ? `${at}, t = ${frame.timestep}` : at;
        slider.setAttribute('aria-valuetext', label.textContent);
        this.rows.forEach((row, place) => {
            for (const name of ['noisy', 'clean']) this.latent(row[name].canvases, frame[name][place]);
            if (frame.pictures) paint(row.picture.canvases[0], frame.pictures[place]);
            const prompt = this.request.prompts[place];
            const told = {
                noisy: index < steps ? `The noisy latent at ${at}` : FINISHED.noisy, clean: `The clean latent that the U-Net sees at ${at}`,
                picture: index < steps ? `The clean latent of ${at}, decoded` : `The picture drawn for the prompt: ${prompt}`,
            };
            for (const name of Object.keys(TILES)) {
                row[name].tile.setAttribute('aria-label', told[name]);
                row[name].caption.textContent = (index < steps ? TILES : FINISHED)[name];
            }
        });
        if (!frame.pictures && this.done) ask({kind: 'decode', run: this.number, index, clean: frame.clean});
    }

    latent(canvases, values) {
        const size = values.length / canvases.length;
        canvases.forEach((canvas, channel) =>
            paint(canvas, toColours(values.slice(channel * size, (channel + 1) * size), settings.colours, LIMIT)));
    }

    finish() {
        this.done = true;
        this.rows.forEach((row, place) => {
            const canvas = document.createElement('canvas'), {prompts, seed} = this.request;
            paint(canvas, this.frames[this.request.steps].pictures[place]);
            row.download.href = canvas.toDataURL('image/png');
            row.download.download = `${prompts[place].replace(/[^\p{L}\p{N}]+/gu, '-')}-${seed}.png`;
            row.download.hidden = false;
        });
    }
}

// --- what the worker says

const answers = {
    loading({done, total}) {
        progress.value = done / total;
    },
    ready({seconds}) {
        progress.value = 0;
        document.documentElement.dataset.loaded = seconds;
        if (!run) say('Ready.');
        else say('Drawing ...');
    },
    step({index, timestep, latents, clean, pictures}) {
        run.add(index, {timestep, noisy: latents, clean, pictures});
    },
    done({latents, pictures, seconds}) {
        const {prompts, steps, guidance, seed, sampler} = run.request;
        run.add(steps, {noisy: latents, clean: run.frames[steps - 1].clean, pictures});
        run.finish();
        rest();
        say(`Drawn in ${seconds.toFixed(1)} seconds: ${sampler}, ${steps} steps, guidance ${guidance}, seed ${seed}.`,
            ...new Set(prompts.flatMap(prompt => checks.notes(prompt))));
    },
    stopped() {
        rest();
        run.done = true;
        say('Stopped.');
    },
    decoded({index, pictures}) {
        run.frames[index].pictures = pictures;
        if (Number(slider.value) === index) run.show(index);
    },
    failed({message: text}) {
        rest();
        say(`This did not work: ${text}.`);
    },
};

// --- what the reader does

let settings, checks, grammar, tokenizer, worker, run = null;
let typed = fields.prompt;  // the prompt that words are suggested for

const ask = request => worker.postMessage(request);

function rest() {
    stop.disabled = true;
    progress.value = 0;
}

function draw() {
    for (const field of Object.values(fields)) field.removeAttribute('aria-invalid');
    const prompts = [fields.prompt.value, ...fields.second.value.trim() ? [fields.second.value] : []];
    let request;
    try {
        request = checks.request({
            prompts, steps: fields.steps.value, guidance: fields.guidance.value, seed: fields.seed.value,
        });
    } catch (error) {
        if (!error.field) throw error;
        fields[error.field].setAttribute('aria-invalid', 'true');
        fields[error.field].focus();
        return say(error.message);
    }
    const sampler = fields.sampler.value;
    run = new Run((run?.number ?? 0) + 1, {...request, sampler});
    stop.disabled = false;
    say(document.documentElement.dataset.loaded ? 'Drawing ...' : LOADING());
    const tokens = prompts.map(prompt => tokenizer.encode(prompt)), empty = tokenizer.encode('');
    const {steps, guidance, seed} = request;
    ask({kind: 'draw', run: run.number, tokens, empty, steps, guidance, seed, sampler});
}

/** The buttons below the prompt are always the same ones, so that the Tab key finds its place after one was pressed. */
function suggest() {
    const found = grammar.suggestions(typed.value, SUGGESTIONS);
    [...words.children].forEach((button, place) => {
        button.hidden = place >= found.length;
        button.textContent = found[place]?.added ?? '';
        button.title = found[place]?.prompt ?? '';
    });
}

function listen() {
    for (let i = 0; i < SUGGESTIONS; i++) {
        const button = element(words, 'button', {type: 'button'});
        button.addEventListener('click', () => { typed.value = button.title; suggest(); });
    }
    for (const field of [fields.prompt, fields.second]) {
        for (const event of ['input', 'focus']) field.addEventListener(event, () => { typed = field; suggest(); });
    }
    form.addEventListener('submit', event => { event.preventDefault(); draw(); });
    stop.addEventListener('click', () => ask({kind: 'stop'}));
    find('#draw-another').addEventListener('click', () => {
        fields.seed.value = Math.floor(Math.random() * 1e6);
        draw();
    });
    slider.addEventListener('input', () => run.show(Number(slider.value)));
}

const LOADING = () => {
    const bytes = Object.values(settings.sizes).reduce((sum, size) => sum + size, 0);
    return `Loading Pocket Diffusion: ${Math.round(bytes / 1e6)} MB, kept for the next visit.`;
};

/**
 * Puts `try-offline.js` before the page. A page is in its hands only from when it is loaded, so the first time it is
 * loaded twice, before anything large is: then several threads may be used, and the copy for the next visit is whole.
 * @returns {Promise<boolean>} whether the page is about to be loaded again
 */
async function isLoadedAgain() {
    if (!navigator.serviceWorker || navigator.serviceWorker.controller || sessionStorage.getItem('drawn')) return false;
    sessionStorage.setItem('drawn', 'once');  // a reader who forces a reload gets a page without it, and no loop
    try {
        await navigator.serviceWorker.register(new URL('../try-offline.js', import.meta.url),
            {scope: new URL('../try', import.meta.url).pathname});
        await navigator.serviceWorker.ready;
    } catch {
        return false;  // some private windows refuse: then all of it is loaded anew at the next visit
    }
    location.reload();
    return true;
}

async function start() {
    if (await isLoadedAgain()) return;
    worker = new Worker(new URL('worker.js', import.meta.url), {type: 'module'});
    let file;
    [settings, file] = await Promise.all([json('model.json'), json('tokenizer.json')]);
    tokenizer = new Tokenizer(file);
    grammar = new Grammar(settings.words);
    checks = new Checks(settings.sentences, settings.limits, grammar, tokenizer);
    const {steps, guidance} = settings.limits;
    Object.assign(fields.prompt, {value: settings.example, placeholder: settings.example});
    Object.assign(fields.steps, {value: STEPS, max: steps.most});
    Object.assign(fields.guidance, {value: settings.guidance, max: guidance.most});
    fields.seed.value = 0;
    for (const name of Object.keys(SAMPLERS)) element(fields.sampler, 'option', {textContent: name});

    worker.onmessage = ({data}) => {
        if (data.run === undefined || data.run === run.number) answers[data.kind](data);
    };
    worker.onerror = event => answers.failed({message: event.message ?? 'the worker could not be started'});
    const most = Number(new URLSearchParams(location.search).get('threads')) || MOST_THREADS;  // to measure with
    const threads = crossOriginIsolated ? Math.min(most, navigator.hardwareConcurrency) : 1;
    ask({kind: 'open', settings, threads});
    listen();
    suggest();
    draw();
}

start().catch(error => say(`This did not work: ${error.message}.`));
