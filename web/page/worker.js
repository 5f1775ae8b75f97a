// The worker that trains. The page calls it with { id, name, args } and gets { id, result } or { id, error }. While it
// trains, it sends { event, ... } too.
import init, * as wgoal from "./wgoal_web.js";

const ready = init();
let session = null;

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
        const adapter = await self.navigator.gpu?.requestAdapter();
        if (!adapter) {
            const found = self.navigator.gpu ? "WebGPU, but no GPU that it can use" : "none";
            throw JSON.stringify({ kind: "no-webgpu", thing: "browser", message: `browser: expected WebGPU, found ${found}`, excerpt: null });
        }
        if (!session) {
            session = new wgoal.Session();
            session.on_step((epoch, step, steps) => self.postMessage({ event: "step", epoch, step, steps }));
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
            // The epoch counts, even if the device is lost before the points are there.
            self.postMessage({ event: "epoch", line });
            self.postMessage({ event: "points", points: await session.triplets() });
        }
    },

    stop: () => session.stop(),
    head: () => session.head(),
    triplets: () => session.triplets(),
    search: async (text) => JSON.parse(await session.search(text)),

    // For tests.
    bench: async (options, shape) => JSON.parse(await wgoal.bench_step(session, options, new Uint32Array(shape))),
    loseDevice: () => session.lose_device(),
};

self.onmessage = async ({ data: { id, name, args } }) => {
    try {
        await ready;
        self.postMessage({ id, result: await calls[name](...args) });
    } catch (error) {
        self.postMessage({ id, error: failure(error) });
    }
};
