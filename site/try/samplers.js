// From noise to latents: three samplers, each as in diffusers, with the settings of the model's own scheduler.
//
// Latents are Float32Arrays of any length. A sampler has
//   timesteps            one number for each step, from noisy to clean
//   scale                what standard normal noise is multiplied by at the start
//   shown(x, i)          what the U-Net is shown of latents x at step i: sqrt(alphaBar) x0 + sqrt(1 - alphaBar) eps
//   alphaBar(i)          of what it is shown
//   step(x, eps, i)      the latents after step i, from the noise that the U-Net answered

/** A new Float32Array with f of the numbers that stand at one place in each of the arrays. */
function each(f, first, ...others) {
    return first.map((value, place) => f(value, ...others.map(other => other[place])));
}

/**
 * The part of signal left at each training timestep, alpha_bar (Ho et al., 2020, arXiv:2006.11239).
 * @param {object} config what the model's `scheduler_config.json` holds
 * @returns {number[]} one for each of the training timesteps, falling from near 1 to near 0
 */
export function alphaBars(config) {
    const wanted = {beta_schedule: 'scaled_linear', prediction_type: 'epsilon', timestep_spacing: 'leading'};
    for (const [name, value] of Object.entries(wanted))
        if (config[name] !== value) throw new Error(`The scheduler has ${name} ${config[name]}, not ${value}`);
    const count = config.num_train_timesteps;
    const [first, last] = [Math.sqrt(config.beta_start), Math.sqrt(config.beta_end)];
    let product = 1;
    return Array.from({length: count}, (_, t) => product *= 1 - (first + (last - first) * t / (count - 1)) ** 2);
}

/** Timesteps at even distances that begin a step each ("leading"), from the last to the first. */
function leading(count, distance, offset) {
    return Array.from({length: count}, (_, i) => (count - 1 - i) * distance + offset);
}

/** x0 and eps in a picture x = sqrt(a) x0 + sqrt(1 - a) eps: the first from the others. */
export function cleanEstimate(x, eps, a) {
    const [signal, noise] = [Math.sqrt(a), Math.sqrt(1 - a)];
    return each((value, e) => (value - noise * e) / signal, x, eps);
}

/** Classifier-free guidance (Ho and Salimans, 2022, arXiv:2207.12598, equation 6): empty + scale (words - empty). */
export function guide(empty, words, scale) {
    return each((without, withWords) => without + scale * (withWords - without), empty, words);
}

/** DDIM without randomness (Song et al., 2020, arXiv:2010.02502, equation 12). */
function ddim(config, steps) {
    const bars = alphaBars(config), distance = Math.floor(bars.length / steps);
    const timesteps = leading(steps, distance, config.steps_offset);
    const end = config.set_alpha_to_one ? 1 : bars[0];
    const alphaBar = i => bars[timesteps[i]];
    return {
        timesteps, scale: 1, alphaBar,
        shown: x => x,
        step(x, eps, i) {
            const after = bars[timesteps[i] - distance] ?? end;
            const [signal, noise] = [Math.sqrt(after), Math.sqrt(1 - after)];
            return each((clean, e) => signal * clean + noise * e, cleanEstimate(x, eps, alphaBar(i)), eps);
        },
    };
}

/** Noise levels of x0 + sigma eps at the timesteps, and 0 after the last. */
function noiseLevels(bars, timesteps) {
    return [...timesteps.map(t => bars[Math.min(t, bars.length - 1)]).map(a => Math.sqrt((1 - a) / a)), 0];
}

/** Euler's method (Karras et al., 2022, arXiv:2206.00364, algorithm 2, with neither churn nor correction). */
function euler(config, steps) {
    const bars = alphaBars(config);
    const timesteps = leading(steps, Math.floor(bars.length / steps), config.steps_offset);
    const sigmas = noiseLevels(bars, timesteps);
    const length = i => Math.sqrt(sigmas[i] ** 2 + 1);
    return {
        timesteps, scale: length(0),
        alphaBar: i => 1 / length(i) ** 2,
        shown: (x, i) => x.map(value => value / length(i)),
        step: (x, eps, i) => each((value, e) => value + (sigmas[i + 1] - sigmas[i]) * e, x, eps),
    };
}

/** DPM-Solver++ 2M (Lu et al., 2022, arXiv:2211.01095, algorithm 2), whose first and last steps are of first order. */
function dpmSolver(config, steps) {
    const bars = alphaBars(config);
    const timesteps = leading(steps + 1, Math.floor(bars.length / (steps + 1)), config.steps_offset).slice(0, -1);
    const sigmas = noiseLevels(bars, timesteps);
    const signal = i => 1 / Math.sqrt(sigmas[i] ** 2 + 1);
    const lambda = i => -Math.log(sigmas[i]);  // log of signal to noise; infinite after the last step
    const alphaBar = i => signal(i) ** 2;
    let before = null;  // the clean estimate of the step before
    return {
        timesteps, scale: 1, alphaBar,
        shown: x => x,
        step(x, eps, i) {
            const clean = cleanEstimate(x, eps, alphaBar(i));
            const h = lambda(i + 1) - lambda(i);
            let direction = clean;
            const past = i > 0 ? lambda(i) - lambda(i - 1) : 0;  // 0 too where two timesteps share a noise level
            if (past > 0 && i < steps - 1) {
                const share = h / past / 2;
                direction = each((now, then) => now + share * (now - then), clean, before);
            }
            before = clean;
            const kept = sigmas[i + 1] * signal(i + 1) / (sigmas[i] * signal(i));
            const added = signal(i + 1) * (1 - Math.exp(-h));
            return each((value, towards) => kept * value + added * towards, x, direction);
        },
    };
}

/** The samplers by the names that the playground gives them. Each takes the scheduler's settings and a number of steps. */
export const SAMPLERS = {'DDIM': ddim, 'Euler': euler, 'DPM-Solver++ 2M': dpmSolver};
