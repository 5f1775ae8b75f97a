// The worker that trains. The page calls it with { id, name, args } and gets { id, result } or { id, error }. While it
// trains, it sends { event, ... } too. First it says whether it has WebGPU.
import { call, listen } from "./engine.js";

listen((event) => self.postMessage(event));

self.onmessage = async ({ data: { id, name, args } }) => {
    try {
        self.postMessage({ id, result: await call(name, args) });
    } catch (error) {
        self.postMessage({ id, error });
    }
};
self.postMessage({ event: "here", gpu: Boolean(self.navigator.gpu) });
