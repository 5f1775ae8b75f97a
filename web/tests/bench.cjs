// Times training steps in the page and with the command line, on the same driver and in turn. Prints a line per objective.
// Fails if the losses differ, or if a step in the page takes more than LIMIT times as long.
const assert = require("node:assert/strict");
const chromium = require("./chromium.cjs");

const ROUNDS = Number(process.env.ROUNDS ?? 5);
const LIMIT = Number(process.env.LIMIT ?? 1.5);
const SHAPE = [128, 1280, 384, 256];

const median = (values) => {
    const sorted = [...values].sort((a, b) => a - b);
    return (sorted[(sorted.length - 1) >> 1] + sorted[sorted.length >> 1]) / 2;
};

async function main() {
    const server = await chromium.serve();
    const browser = await chromium.launch();
    try {
        const page = await chromium.ready(await chromium.open(browser, server.page));
        console.log(`a step of ${SHAPE.join(":")} without validation, median of ${ROUNDS} rounds`);
        let slow = 0;
        for (const objective of ["cir:sig-ms", "infonce"]) {
            const [here, there] = [[], []];
            for (let round = 0; round < ROUNDS; round++) {
                const found = await page.evaluate(([objective, shape]) => window.wgoal.ask("bench", [JSON.stringify({ objective }), shape]), [objective, SHAPE]);
                const native = JSON.parse(chromium.run("bench", "step", "--shape", SHAPE.join(":"), "--objective", objective, "--device", "swiftshader", "--json"));
                assert.equal(found.losses.length, 5);
                const error = Math.max(...found.losses.map((loss, k) => Math.abs(loss - native.losses[k]) / Math.abs(native.losses[k])));
                assert.ok(error <= 1e-4, `${objective}: losses ${found.losses} in the page, ${native.losses} without it`);
                here.push(found.median_ms);
                there.push(native.median_ms);
            }
            const ratio = median(here) / median(there);
            console.log(`${objective}: ${median(here).toFixed(1)} ms in the page, ${median(there).toFixed(1)} ms without it, ratio ${ratio.toFixed(2)}`);
            slow += ratio > LIMIT;
        }
        assert.equal(slow, 0, `expected ratios of at most ${LIMIT}`);
    } finally {
        await browser.close();
        server.close();
    }
}
main().catch((error) => {
    console.error(error.message);
    process.exitCode = 1;
});
