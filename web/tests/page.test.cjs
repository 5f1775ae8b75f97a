// The page in Chromium, on WebGPU with SwiftShader. `scripts/web test` runs this.
const assert = require("node:assert/strict");
const fs = require("node:fs");
const os = require("node:os");
const path = require("node:path");
const { after, before, test } = require("node:test");
const chromium = require("./chromium.cjs");

const { run } = chromium;
let browser, server, folder;

before(async () => {
    folder = fs.mkdtempSync(path.join(os.tmpdir(), "wgoal-web-"));
    server = await chromium.serve();
    browser = await chromium.launch();
});

after(async () => {
    await browser?.close();
    server?.close();
    fs.rmSync(folder, { recursive: true, force: true });
});

// A page that is ready to train.
const ready = async (options) => chromium.ready(await chromium.open(browser, server.page, options));

// Keeps the longest time between two frames.
const COUNT_FRAMES = () => {
    window.gap = 0;
    let last = performance.now();
    const frame = (now) => {
        window.gap = Math.max(window.gap, now - last);
        last = now;
        requestAnimationFrame(frame);
    };
    requestAnimationFrame(frame);
};

const status = (page) => page.textContent("#status");

// Trains to the end, and returns the results of the epochs.
async function trained(page, button = "#train") {
    await page.click(button);
    await page.waitForFunction(() => !window.wgoal.state.running, null, { timeout: 180_000 });
    return page.evaluate(() => window.wgoal.state.epochs);
}

async function downloaded(page, button, name) {
    const [download] = await Promise.all([page.waitForEvent("download"), page.click(button)]);
    const file = path.join(folder, name);
    await download.saveAs(file);
    return file;
}

test("five epochs exceed twenty times chance, and the command line agrees with the page", async () => {
    const page = await ready();
    const device = await page.evaluate(() => window.wgoal.state.device);
    assert.equal(device.backend, "webgpu");
    assert.notEqual(device.kind, "cpu");
    // The longest time between two frames while it trains.
    await page.evaluate(COUNT_FRAMES);
    const epochs = await trained(page);
    assert.equal(await page.textContent("#error"), "");
    assert.equal(epochs.length, 5);
    const gap = await page.evaluate(() => window.gap);
    console.log(`longest time between two frames: ${gap.toFixed(0)} ms`);
    assert.ok(gap <= 200, `${gap} ms between two frames`);
    const best = epochs.reduce((a, b) => (b.val.rsum > a.val.rsum ? b : a));
    // Of 150 images, and of their captions, of which at most two are right.
    const { splits } = await page.evaluate(() => window.wgoal.state.data);
    assert.equal(splits[1], 150);
    const chance = 100 / 150;
    console.log(`R@1 ${best.val.i2t.r1.toFixed(1)} and ${best.val.t2i.r1.toFixed(1)}, rsum ${best.val.rsum.toFixed(2)}, chance ${chance.toFixed(2)}`);
    assert.ok(best.val.i2t.r1 > 20 * chance && best.val.t2i.r1 > 20 * chance, JSON.stringify(best.val));
    const head = await downloaded(page, "#save-head", "best.safetensors");
    const found = JSON.parse(run("eval", head, "data/clipart-mini", "--split", "val", "--device", "cpu", "--json"));
    const rsum = found.rsum ?? found.recall?.rsum ?? found.val?.rsum;
    assert.ok(Math.abs(rsum - best.val.rsum) <= 0.1, `${JSON.stringify(found)}, page ${best.val.rsum}`);
    const metrics = fs.readFileSync(await downloaded(page, "#save-metrics", "metrics.jsonl"), "utf8");
    assert.deepEqual(metrics.trim().split("\n").map(JSON.parse), epochs);
    // The same run on the same driver, without a browser.
    const out = path.join(folder, "native");
    run("train", "data/clipart-mini", "--recipe", "goal", "--standardize", "--lr", "0.001", "--epochs", "3", "--device", "swiftshader", "--out", out);
    const natives = fs.readFileSync(path.join(out, "metrics.jsonl"), "utf8").trim().split("\n").map(JSON.parse);
    const native = natives[0];
    const error = Math.abs(native.loss - epochs[0].loss) / Math.abs(native.loss);
    console.log(`loss of the first epoch: ${epochs[0].loss} in the page, ${native.loss} without it`);
    assert.ok(error <= 1e-4, `${epochs[0].loss}, native ${native.loss}`);
    // The first epoch compiles shaders. The best of the others, because the machine may have other work.
    const [here, there] = [epochs, natives].map((all) => Math.min(...all.slice(1).map((e) => e.seconds)));
    console.log(`an epoch of 14 steps with its validation: ${here.toFixed(2)} s in the page, ${there.toFixed(2)} s without it, ratio ${(here / there).toFixed(2)}`);
    assert.deepEqual(page.faults, []);
    await page.close();
});

test("a run stops and goes on, with at most three submissions in flight", async () => {
    const page = await ready();
    // Counts submissions in the worker, apart from what the program counts.
    await page.workers()[0].evaluate(() => {
        self.flight = { now: 0, most: 0, all: 0 };
        const submit = GPUQueue.prototype.submit;
        GPUQueue.prototype.submit = function (...work) {
            const result = submit.apply(this, work);
            self.flight.all += 1;
            self.flight.now += 1;
            self.flight.most = Math.max(self.flight.most, self.flight.now);
            this.onSubmittedWorkDone().then(() => (self.flight.now -= 1));
            return result;
        };
    });
    await page.fill("#epochs-wanted", "40");
    await page.fill("#embed", "64");
    await page.click("#train");
    await page.waitForFunction(() => window.wgoal.state.epochs.length >= 1, null, { timeout: 60_000 });
    // Searches read results back while steps run.
    await page.evaluate(() => Promise.all(Array.from({ length: 8 }, () => window.wgoal.ask("search", [window.wgoal.state.data.captions[0][0]]))));
    await page.click("#stop");
    await page.waitForFunction(() => !window.wgoal.state.running, null, { timeout: 60_000 });
    const before = await page.evaluate(() => window.wgoal.state.epochs.length);
    assert.ok(before < 40);
    assert.match(await status(page), /^Stopped after \d+ whole epochs/);
    const flight = await page.workers()[0].evaluate(() => self.flight);
    console.log(`submissions: ${flight.all}, at most ${flight.most} in flight`);
    assert.ok(flight.all > 10 && flight.most <= 3, JSON.stringify(flight));
    await page.fill("#epochs-wanted", String(before + 1));
    await page.click("#continue");
    await page.waitForFunction((n) => window.wgoal.state.epochs.length > n, before, { timeout: 60_000 });
    await page.click("#stop");
    await page.waitForFunction(() => !window.wgoal.state.running, null, { timeout: 60_000 });
    const numbers = await page.evaluate(() => window.wgoal.state.epochs.map((e) => e.epoch));
    assert.deepEqual(numbers, numbers.map((_, k) => k + 1));
    assert.deepEqual(page.faults, []);
    await page.close();
});

test("a hidden tab trains on, and shows the result when it is seen again", async () => {
    const { send, end } = await chromium.drive();
    try {
        const script = (text, ...args) => send("POST", "/execute/sync", { script: text, args });
        const until = async (text) => {
            for (const begin = Date.now(); !(await script(`return ${text}`)); ) {
                assert.ok(Date.now() - begin < 60_000, text);
                await new Promise((done) => setTimeout(done, 50));
            }
        };
        await send("POST", "/url", { url: server.page });
        const own = await send("GET", "/window");
        const other = (await send("POST", "/window/new", { type: "tab" })).handle;
        await until("!document.getElementById('train')?.disabled");
        // Notes how far training is, and how many frames were drawn, whenever the tab is hidden or seen.
        await script(`
            window.frames = 0;
            window.seen = [];
            const frame = () => { window.frames += 1; requestAnimationFrame(frame); };
            frame();
            document.addEventListener("visibilitychange", () => window.seen.push([document.visibilityState, window.frames, window.wgoal.state.epochs.length]));
            document.getElementById("epochs-wanted").value = 4;
            document.getElementById("embed").value = 32;
            document.getElementById("train").click();
        `);
        await until("window.wgoal.state.epochs.length >= 1");
        await send("POST", "/window", { handle: other });
        await new Promise((done) => setTimeout(done, 6_000));
        await send("POST", "/window", { handle: own });
        await until("!window.wgoal.state.running");
        const [[hidden, before, first], [visible, after, last]] = await script("return window.seen");
        assert.deepEqual([hidden, visible], ["hidden", "visible"]);
        assert.ok(after - before <= 2, `${after - before} frames while hidden`);
        assert.ok(last > first, `${first} epochs, and ${last} after a while in a hidden tab`);
        const label = (id) => script("return document.getElementById(arguments[0]).getAttribute('aria-label')", id);
        assert.match(await label("chart-loss"), /^Loss, 4 epochs/);
        assert.match(await label("map-negative"), /256 triplets/);
        assert.match(await script("return document.getElementById('status').textContent"), /^Done: 4 epochs/);
    } finally {
        await end();
    }
});

test("curves and triplets move within an epoch", async () => {
    const page = await ready();
    // Each new set of points on the map, with what the curves have then.
    await page.evaluate(() => {
        window.looks = [];
        let last = null;
        const { state, maps } = window.wgoal;
        const look = () => {
            if (maps[0].target !== last && maps[0].target.length) {
                last = maps[0].target;
                const drawn = document.querySelector("#chart-loss polyline").getAttribute("points").split(" ").length;
                window.looks.push({ epochs: state.epochs.length, points: last, drawn, map: maps[0].canvas.toDataURL(), ...state.curve.at(-1) });
            }
            requestAnimationFrame(look);
        };
        look();
    });
    await page.fill("#epochs-wanted", "2");
    const epochs = await trained(page);
    const looks = await page.evaluate(() => window.looks);
    const within = looks.filter((look) => look.epochs === 0 && look.at < 1);
    assert.ok(within.length >= 2, `${within.length} looks within the first epoch`);
    assert.deepEqual(looks.map((look) => look.drawn), looks.map((_, k) => k + 1));
    assert.equal(new Set(looks.map((look) => look.points.join())).size, looks.length);
    // The points glide, so the map of a look shows those before it.
    assert.ok(new Set(looks.map((look) => look.map)).size >= looks.length - 1);
    const seconds = epochs.reduce((sum, epoch) => sum + epoch.seconds, 0);
    assert.ok(looks.length <= 4 * seconds + epochs.length, `${looks.length} looks in ${seconds} seconds`);
    for (const { points, positive } of looks) {
        // Of 128 pairs, p with the hardest caption and with the hardest picture.
        assert.equal(points.length, 2 * 2 * 128);
        assert.ok(points.every((one) => Math.abs(one) <= 1.0001));
        const p = points.filter((_, k) => k % 2 === 0);
        const mean = p.reduce((sum, one) => sum + one, 0) / p.length;
        assert.ok(Math.abs(mean - positive) < 0.15, `p ${mean}, of the steps since the last look ${positive}`);
    }
    assert.deepEqual(page.faults, []);
    await page.close();
});

test("without WebGPU in its worker the page trains itself, and still draws", async () => {
    const page = await chromium.open(browser, "about:blank");
    await page.route("**/worker.js", async (route) => {
        const answer = await route.fetch();
        await route.fulfill({ response: answer, body: `Object.defineProperty(self.navigator, "gpu", { value: undefined });\n${await answer.text()}` });
    });
    await page.goto(server.page);
    await chromium.ready(page);
    assert.match(await page.textContent("#device"), /The program runs inthis page, because a worker has no WebGPU here/);
    assert.equal(page.workers().length, 0);
    await page.evaluate(COUNT_FRAMES);
    await page.fill("#epochs-wanted", "2");
    const epochs = await trained(page);
    const gap = await page.evaluate(() => window.gap);
    console.log(`longest time between two frames on one thread: ${gap.toFixed(0)} ms`);
    assert.ok(gap <= 200, `${gap} ms between two frames`);
    assert.equal(await page.textContent("#error"), "");
    // The same as in a worker, but for the time.
    const usual = await ready();
    await usual.fill("#epochs-wanted", "2");
    const same = (found) => found.map((epoch) => ({ ...epoch, seconds: 0 }));
    assert.deepEqual(same(epochs), same(await trained(usual)));
    assert.match(await usual.textContent("#device"), /The program runs ina worker/);
    assert.equal(usual.workers().length, 1);
    assert.deepEqual([...page.faults, ...usual.faults], []);
    await page.close();
    await usual.close();
});

test("a lost device is told, and one click goes on", async () => {
    const page = await ready();
    await page.fill("#epochs-wanted", "4");
    await page.fill("#embed", "32");
    await page.click("#train");
    await page.waitForFunction(() => window.wgoal.state.epochs.length >= 2, null, { timeout: 60_000 });
    await page.evaluate(() => window.wgoal.ask("loseDevice"));
    await page.waitForFunction(() => !window.wgoal.state.running, null, { timeout: 60_000 });
    assert.equal(await status(page), "The device was lost.");
    assert.match(await page.textContent("#error"), /the device was lost .* Press Continue/);
    const before = await page.evaluate(() => window.wgoal.state.epochs);
    const epochs = await trained(page, "#continue");
    assert.equal(await page.textContent("#error"), "");
    assert.deepEqual(epochs.slice(0, before.length), before);
    assert.deepEqual(epochs.map((e) => e.epoch), [1, 2, 3, 4]);
    // The same as without the loss.
    await page.evaluate(() => window.wgoal.ask("loseDevice"));
    await page.click("#train");
    await page.waitForFunction(() => !window.wgoal.state.running, null, { timeout: 60_000 });
    assert.match(await page.textContent("#error"), /the device was lost/);
    const whole = await trained(page);
    assert.deepEqual(whole.map((e) => [e.loss, e.val]), epochs.map((e) => [e.loss, e.val]));
    await page.close();
});

test("a device that is lost between runs is opened again, with Train and with Continue", async () => {
    const page = await ready();
    const idle = () => page.waitForFunction(() => !window.wgoal.state.running, null, { timeout: 60_000 });
    // Presses a button that fails, because the device is gone.
    const fails = async (button) => {
        await page.evaluate(() => window.wgoal.ask("loseDevice"));
        await page.click(button);
        await page.waitForSelector("#error:not([hidden])");
        await idle();
        assert.match(await page.textContent("#error"), /the device was lost/);
    };
    await page.fill("#epochs-wanted", "1");
    await page.fill("#embed", "32");
    await fails("#train");
    assert.match(await page.textContent("#error"), /Press Train: the page opens the device again\.$/);
    // Other messages and other data do not hide that the device is lost.
    await page.click("#own-example");
    await page.waitForSelector("#error", { state: "hidden" });
    assert.equal((await trained(page)).length, 1);
    assert.equal(await page.textContent("#error"), "");
    await fails("#continue");
    const epochs = await trained(page, "#continue");
    assert.equal(await page.textContent("#error"), "");
    assert.deepEqual(epochs.map((e) => e.epoch), [1, 2, 3, 4, 5, 6]);
    await page.close();
});

test("Stop counts while a run is prepared", async () => {
    const page = await ready();
    await page.fill("#epochs-wanted", "2");
    await page.fill("#embed", "32");
    await page.evaluate(() => ["train", "stop"].forEach((id) => document.getElementById(id).click()));
    await page.waitForFunction(() => !window.wgoal.state.running, null, { timeout: 60_000 });
    assert.equal(await status(page), "Stopped after 0 whole epochs. Continue goes on from here.");
    assert.equal((await trained(page, "#continue")).length, 2);
    await page.close();
});

test("a file that the browser cannot read gives a message", async () => {
    const page = await ready();
    await page.evaluate(() => {
        const file = new File([new Uint8Array(10)], "images.npy");
        file.arrayBuffer = () => Promise.reject(new DOMException("the file is gone", "NotReadableError"));
        Object.defineProperty(document.getElementById("files"), "files", { value: [file] });
        document.getElementById("files").dispatchEvent(new Event("change"));
    });
    await page.waitForSelector("#error:not([hidden])");
    assert.match(await page.textContent("#error"), /^images\.npy: expected a file that the browser can read, found the file is gone; choose it again/);
    assert.equal(await page.isEnabled("#train"), true);
    assert.deepEqual(page.faults, []);
    await page.close();
});

test("parameters stay while a gradient is edited", async () => {
    const page = await ready();
    await page.selectOption("#objective", "custom");
    await page.fill("#parameter-gamma", "7");
    await page.evaluate(() => {
        document.getElementById("weights").value += "// more\n";
        document.getElementById("weights").dispatchEvent(new Event("input"));
        document.getElementById("parameter-gamma").dataset.old = "old";
    });
    await page.waitForSelector("#parameter-gamma:not([data-old])");
    assert.equal(await page.inputValue("#parameter-gamma"), "7");
    await page.close();
});

test("files of the reader are opened, and a damaged one gives its message", async () => {
    const page = await ready();
    const data = path.join(__dirname, "../../data/clipart-mini");
    const images = fs.readFileSync(path.join(data, "images.npy"));
    const bad = path.join(folder, "bad");
    fs.mkdirSync(bad);
    fs.writeFileSync(path.join(bad, "images.npy"), images.subarray(0, images.length - 3));
    const texts = path.join(data, "texts.npy");
    await page.setInputFiles("#files", [path.join(bad, "images.npy"), texts]);
    await page.waitForFunction(() => !document.getElementById("error").hidden);
    const message = `images.npy: expected ${images.length} bytes, found ${images.length - 3} bytes; the file is cut short: copy or write it again`;
    assert.equal(await page.textContent("#error"), message);
    assert.ok(run.fails("inspect", bad).includes(message.replace("images.npy: ", "")), "the command line says the same");
    // The dataset before it is still open, and good files take its place.
    assert.equal(await page.isEnabled("#train"), true);
    await page.setInputFiles("#files", ["images.npy", "texts.npy", "text_to_image.npy"].map((name) => path.join(data, name)));
    await page.waitForFunction(() => window.wgoal.state.data.captions.length === 0);
    assert.equal(await page.textContent("#error"), "");
    assert.match(await page.textContent("#data-summary"), /1400 images of 1280 numbers, 2719 captions/);
    await page.fill("#epochs-wanted", "1");
    assert.equal((await trained(page)).length, 1);
    await page.close();
});

test("a folder that is dropped is opened", async () => {
    const page = await ready();
    const mine = path.join(folder, "mine");
    fs.mkdirSync(path.join(mine, "pictures"), { recursive: true });
    for (const name of ["images.npy", "texts.npy", "text_to_image.npy"]) {
        fs.copyFileSync(path.join(__dirname, "../../data/clipart-mini", name), path.join(mine, name));
    }
    fs.writeFileSync(path.join(mine, "pictures", "one.jpg"), "not read");
    // The browser's own drag of a folder from outside, as with a mouse.
    const devtools = await page.context().newCDPSession(page);
    const drag = async (...paths) => {
        await page.locator("#drop").scrollIntoViewIfNeeded();
        const { x, y } = await page.locator("#drop").boundingBox();
        const data = { items: [], files: paths, dragOperationsMask: 1 };
        for (const type of ["dragEnter", "dragOver", "drop"]) {
            await devtools.send("Input.dispatchDragEvent", { type, x: x + 20, y: y + 20, data });
        }
    };
    await drag(mine);
    await page.waitForFunction(() => window.wgoal.state.data.name === "mine");
    assert.match(await page.textContent("#data-summary"), /^mine: 1400 images of 1280 numbers, 2719 captions/);
    assert.equal(await page.textContent("#error"), "");
    // Single files, one of which is damaged.
    fs.truncateSync(path.join(mine, "texts.npy"), 1000);
    await drag(path.join(mine, "images.npy"), path.join(mine, "texts.npy"));
    await page.waitForSelector("#error:not([hidden])");
    assert.match(await page.textContent("#error"), /^texts\.npy: expected \d+ bytes, found 1000 bytes; the file is cut short/);
    assert.deepEqual(page.faults, []);
    await page.close();
});

test("a fault in a gradient is marked by line and column", async () => {
    const page = await ready();
    await page.selectOption("#objective", "custom");
    await page.waitForSelector("#parameter-gamma");
    const good = await page.inputValue("#weights");
    await page.fill("#weights", good.replace("1.0 - p,", "1.0 - q,"));
    await page.waitForSelector("#gutter .bad");
    assert.equal(await page.textContent("#gutter .bad"), "3");
    assert.match(await page.innerText("#weights-error"), /^your weights, line 3, column \d+: expected WGSL, found .*\n+.*1\.0 - q.*\n.*\^/);
    assert.equal(await page.getAttribute("#weights", "aria-invalid"), "true");
    await page.fill("#weights", good);
    await page.waitForSelector("#parameter-gamma");
    assert.equal(await page.textContent("#weights-error"), "");
    await page.fill("#epochs-wanted", "1");
    assert.equal((await trained(page)).length, 1);
    assert.equal(await page.textContent("#error"), "");
    await page.close();
});

test("the page works by keyboard, at phone width and in dark mode, and says what it is", async () => {
    for (const [width, colorScheme] of [[1280, "light"], [390, "light"], [390, "dark"]]) {
        const page = await ready({ viewport: { width, height: 844 }, colorScheme, reducedMotion: "reduce" });
        const wide = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
        assert.ok(wide <= 0, `${wide} pixels wider than ${width}`);
        const paper = await page.evaluate(() => getComputedStyle(document.body).backgroundColor.match(/\d+/g).map(Number));
        assert.equal(paper[0] < 60, colorScheme === "dark");
        // Each control has a name, and each field a line of explanation.
        const nameless = await page.evaluate(() => [...document.querySelectorAll("button, input, select, textarea")].filter((one) => !one.labels?.length && !one.textContent.trim()).map((one) => one.id));
        assert.deepEqual(nameless, []);
        const unexplained = await page.evaluate(() => [...document.querySelectorAll("#options input, #options select")].filter((one) => !document.getElementById(one.getAttribute("aria-describedby"))?.textContent).map((one) => one.id));
        assert.deepEqual(unexplained, []);
        await page.fill("#epochs-wanted", "2");
        await page.fill("#embed", "32");
        // From the top of the page, Tab reaches the button, and Enter presses it.
        await page.evaluate(() => document.activeElement.blur());
        for (let k = 0; k < 10 && (await page.evaluate(() => document.activeElement.id)) !== "train"; k++) {
            await page.keyboard.press("Tab");
        }
        await page.keyboard.press("Enter");
        await page.waitForFunction(() => window.wgoal.state.epochs.length === 2 && !window.wgoal.state.running, null, { timeout: 60_000 });
        assert.match(await page.getAttribute("#chart-loss", "aria-label"), /^Loss, 2 epochs\. Last: loss /);
        assert.match(await page.getAttribute("#map-positive", "aria-label"), /weights from .* 256 triplets/);
        assert.equal(await page.locator("#found-after li").count(), 5);
        assert.equal(await page.locator("#found-before li").count(), 5);
        const caption = await page.evaluate(() => document.getElementById("captions").selectedOptions[0].textContent);
        assert.equal(await page.textContent("#found-for"), `Found for “${caption}”:`);
        const after = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
        assert.ok(after <= 0, `${after} pixels wider than ${width} after training`);
        if (process.env.PICTURES) {
            await page.screenshot({ path: path.join(process.env.PICTURES, `page-${width}-${colorScheme}.png`), fullPage: true });
        }
        assert.deepEqual(page.faults, []);
        await page.close();
    }
});

test("a browser without WebGPU is told what to do", async () => {
    const without = await chromium.launch(["--no-sandbox", "--disable-gpu", "--disable-features=WebGPU", "--disable-background-networking", "--no-first-run"]);
    try {
        const page = await chromium.open(without, server.page);
        await page.waitForSelector("#no-webgpu:not([hidden])", { timeout: 30_000 });
        assert.match(await page.textContent("#no-webgpu-why"), /^browser: expected WebGPU, found /);
        assert.equal(await page.isEnabled("#train"), false);
        assert.equal(await status(page), "This browser cannot train.");
    } finally {
        await without.close();
    }
});
