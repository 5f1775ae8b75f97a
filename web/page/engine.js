// What the page can ask for. This runs in a worker, or in the page itself where a worker has no WebGPU. Nothing here blocks:
// training waits for the device after every few steps, and the page draws meanwhile.
import init, * as wgoal from "./wgoal_web.js";

let ready = null;
let session = null;
// Where the events of a run go.
let tell = () => {};

// The failure of a call. Those of the library are JSON texts.
function failure(error) {
    if (typeof error === "string") {
        try {
            return JSON.parse(error);
        } catch {
            // It is a plain text.
        }
    }
    const message = `this page: expected to go on, found ${error?.message ?? error}; reload the page, and report this if it happens again`;
    return { kind: "page", thing: "this page", message, excerpt: null };
}

const calls = {
    // Opens the GPU. Returns what the library and the browser say of it.
    async open(request) {
        const adapter = await navigator.gpu?.requestAdapter();
        if (!adapter) {
            const found = navigator.gpu ? "WebGPU, but no GPU that it can use" : "none";
            throw JSON.stringify({ kind: "no-webgpu", thing: "browser", message: `browser: expected WebGPU, found ${found}`, excerpt: null });
        }
        if (!session) {
            session = new wgoal.Session();
            session.on_step((epoch, step, steps) => tell({ event: "step", epoch, step, steps }));
            session.on_look((place, points) => tell({ event: "look", ...JSON.parse(place), points }));
        }
        const device = JSON.parse(await session.open(request));
        const { vendor, architecture, description } = adapter.info ?? {};
        return { ...device, adapter: [vendor, architecture, description].filter(Boolean).join(" ") };
    },

    // Opens a dataset: names and bytes in turn.
    load: (name, files) => JSON.parse(session.load(name, files)),

    weightMap: (options, side) => wgoal.weight_map(options, side),
    parameters: (options) => JSON.parse(wgoal.parameters(options)),

    start: (options) => session.start(options),
    resume: (epochs) => session.resume(epochs),

    // Trains until the run ends. Tells of every epoch.
    async train() {
        for (;;) {
            const line = await session.epoch();
            if (line === undefined) {
                return null;
            }
            tell({ event: "epoch", line });
        }
    },

    stop: () => session.stop(),
    head: () => session.head(),
    search: async (text) => JSON.parse(await session.search(text)),

    // For tests.
    bench: async (options, shape) => JSON.parse(await wgoal.bench_step(session, options, new Uint32Array(shape))),
    loseDevice: () => session.lose_device(),
};

// Where the events of a run go from now on.
export function listen(listener) {
    tell = listener;
}

// Calls one of `calls`. What it throws is a failure.
export async function call(name, args) {
    try {
        await (ready ??= init());
        return await calls[name](...args);
    } catch (error) {
        throw failure(error);
    }
}
