// The page: its controls, its charts, and what it asks of the program.
import { SIDE, WeightMap, lines, still } from "./charts.js";
import { chosen, contents, dropped, example, save } from "./files.js";

const at = (id) => document.getElementById(id);

// Who answers: a worker, or this thread if only the page has WebGPU. In the page training goes in short pieces, because it
// waits for the device after every few steps.
const answering = new Promise((decided) => {
    const waiting = new Map();
    let [calls, here] = [0, false];
    const worker = new Worker("worker.js", { type: "module" });
    const fromWorker = (name, args, moved) => {
        const id = ++calls;
        worker.postMessage({ id, name, args }, moved);
        return new Promise((done, failed) => waiting.set(id, { done, failed }));
    };
    const fromPage = async () => {
        worker.terminate();
        const { call, listen } = await import("./engine.js");
        listen(heard);
        state.place = "this page, because a worker has no WebGPU here";
        decided(call);
    };
    worker.onmessage = ({ data }) => {
        if (data.event === "here") {
            here = true;
            data.gpu || !navigator.gpu ? decided(fromWorker) : fromPage();
        } else if (data.event) {
            heard(data);
        } else {
            const { done, failed } = waiting.get(data.id);
            waiting.delete(data.id);
            data.error ? failed(data.error) : done(data.result);
        }
    };
    worker.onerror = (event) => {
        if (!here && navigator.gpu) {
            // Such as an older browser, whose workers read no modules.
            fromPage();
            return;
        }
        show({ kind: "page", message: `this page: expected its worker to start, found ${event.message || "a failure"}; use a current browser and reload the page` });
    };
});

// Asks for something. `moved` lists the memory that goes to the worker.
const ask = async (name, args = [], moved = []) => (await answering)(name, args, moved);

const OBJECTIVES = [
    ["GOAL gradients", ["con", "nca", "cir"].flatMap((t) => ["con", "lin", "lin-ms", "sig", "sig-ms"].map((p) => `${t}:${p}`))],
    ["Losses", ["hinge", "hinge-sum", "infonce", "siglip", "circle", "multi-similarity", "lifted"]],
    ["Yours", ["custom"]],
];

const EXPLAINED = {
    margin: "A triplet counts while n is above p minus this margin. Without a margin every triplet counts.",
    tau: "How sharply the triplet weight changes.",
    alpha: "How sharply the pull on the positive changes.",
    beta: "How sharply the push on the negative changes.",
    lambda: "The similarity at which pull and push have half of their strength.",
    threshold: "How far a triplet looks for other pairs of the batch to compare with.",
    "circle-margin": "The margin of the circle weight.",
    temperature: "Lower values weigh the hardest negatives more.",
    "logit-bias": "What is added to each scaled similarity.",
};

const WEIGHTS = `override gamma: f32 = 4.0;
fn triplet_weight(p: f32, n: f32) -> f32 { return 1.0 / (1.0 + exp(-gamma * (n - p))); }
fn pair_weights(p: f32, n: f32) -> vec2f { return vec2f(1.0 - p, max(n, 0.0)); }
`;

const state = { data: null, device: null, running: false, started: false, epochs: [], lines: [], curve: [], place: "a worker", failed: null, lost: false, stopping: false, shown: null, kept: new Map() };
const maps = [
    new WeightMap(at("map-positive"), "T P⁺, the pull on the positive"),
    new WeightMap(at("map-negative"), "T P⁻, the push on the negative"),
];

function say(text) {
    at("status").textContent = text;
}

// Shows a failure, or hides it.
function show(failure) {
    state.failed = failure ?? null;
    const box = at("error");
    box.hidden = !failure;
    box.textContent = failure ? (failure.message ?? String(failure)) : "";
    if (failure?.kind === "device") {
        state.lost = true;
        box.textContent += state.started
            ? " Press Continue: the page opens the device again and goes on from the last checkpoint."
            : " Press Train: the page opens the device again.";
    }
    if (failure) {
        box.focus();
    }
}

function refresh() {
    const { data, device, running, started, epochs } = state;
    at("train").disabled = running || !data || !device;
    at("stop").disabled = !running;
    at("continue").disabled = running || !started;
    at("save-head").disabled = epochs.length === 0;
    at("save-metrics").disabled = epochs.length === 0;
    at("find").disabled = !started;
    for (const field of ["files", "folder", "own-example"]) {
        at(field).disabled = running;
    }
}

const number = (id) => (at(id).value.trim() === "" ? NaN : Number(at(id).value));

// The options as the worker takes them, or the failure of the first field that holds no number.
function options() {
    const whole = (id, name, least) => {
        const value = number(id);
        if (!Number.isSafeInteger(value) || value < least) {
            throw { kind: "config", message: `${name}: expected a whole number of at least ${least}, found '${at(id).value}'; change it` };
        }
        return value;
    };
    const lr = number("lr");
    if (!(lr > 0)) {
        throw { kind: "config", message: `Learning rate: expected a number above 0, found '${at("lr").value}'; change it` };
    }
    return JSON.stringify({
        ...objective(),
        batch: whole("batch", "Batch", 1),
        epochs: whole("epochs-wanted", "Epochs", 1),
        embed: whole("embed", "Width", 1),
        seed: whole("seed", "Seed", 0),
        standardize: at("standardize").checked,
        lr,
    });
}

// The objective with the parameters that differ from their defaults.
function objective() {
    const name = at("objective").value;
    const parameters = {};
    for (const input of at("parameters").querySelectorAll("input")) {
        if (input.validity.badInput) {
            throw { kind: "config", message: `${input.dataset.name}: expected a number or nothing, found other text; change it` };
        }
        if (input.value.trim() !== "" && Number.isFinite(Number(input.value))) {
            parameters[input.dataset.name] = Number(input.value);
        }
    }
    return { objective: name, parameters, weights: name === "custom" ? at("weights").value : null };
}

// Fields for the parameters of the objective, empty, with their defaults shown.
async function showParameters() {
    at("weights-field").hidden = at("objective").value !== "custom";
    // What was typed stays while the same objective is edited.
    const same = state.shown === at("objective").value;
    const typed = same ? [...at("parameters").querySelectorAll("input")].map((input) => [input.dataset.name, input.value]) : [];
    const kept = new Map([...(same ? state.kept : []), ...typed]);
    [state.shown, state.kept] = [at("objective").value, kept];
    at("parameters").replaceChildren();
    let found = [];
    try {
        found = await ask("parameters", [JSON.stringify({ ...objective(), parameters: {} })]);
        markWeights(null);
    } catch (failure) {
        markWeights(failure);
    }
    at("parameters").replaceChildren(...found.map(([name, value]) => {
        const field = document.createElement("p");
        const id = `parameter-${name}`;
        const label = Object.assign(document.createElement("label"), { htmlFor: id, textContent: name });
        const input = Object.assign(document.createElement("input"), { id, type: "number", step: "any", placeholder: value === null ? "off" : String(Number(value.toPrecision(6))) });
        input.dataset.name = name;
        input.value = kept.get(name) ?? "";
        input.setAttribute("aria-describedby", `${id}-help`);
        const help = Object.assign(document.createElement("small"), { id: `${id}-help`, textContent: EXPLAINED[name] ?? "A parameter of your weights." });
        field.append(label, input, help);
        return field;
    }));
    await showMap();
}

let mapped = 0;

async function showMap() {
    const mine = ++mapped;
    try {
        const weights = await ask("weightMap", [JSON.stringify(objective()), SIDE]);
        if (mine !== mapped) {
            return;
        }
        markWeights(null);
        maps[0].setWeights([...weights.slice(0, SIDE * SIDE)]);
        maps[1].setWeights([...weights.slice(SIDE * SIDE)]);
        at("map-mean").textContent = weights.length ? "" : "This objective has no weights of single triplets. The points still show where the triplets are.";
    } catch (failure) {
        if (mine === mapped) {
            markWeights(failure);
        }
    }
}

// Marks a fault in the weights by its line and column.
function markWeights(failure) {
    const text = at("weights");
    const place = /line (\d+), column (\d+)/.exec(failure?.thing ?? "");
    const bad = place ? Number(place[1]) : 0;
    at("gutter").replaceChildren(...text.value.split("\n").map((_, k) => {
        const line = document.createElement("div");
        line.textContent = k + 1;
        line.className = k + 1 === bad ? "bad" : "";
        return line;
    }));
    text.setAttribute("aria-invalid", failure ? "true" : "false");
    const custom = at("objective").value === "custom";
    const told = failure && custom ? [["p", failure.message], ["pre", failure.excerpt]] : [];
    const parts = told.filter(([, words]) => words).map(([kind, words]) => Object.assign(document.createElement(kind), { textContent: words }));
    at("weights-error").replaceChildren(...parts);
    // On a narrow screen the mark may be beyond the edge.
    const shown = at("weights-error").querySelector("pre");
    if (shown) {
        const all = shown.textContent.split("\n");
        const share = all.at(-1).length / Math.max(...all.map((line) => line.length));
        shown.scrollLeft = share * shown.scrollWidth - shown.clientWidth / 2;
    }
    if (failure && !custom) {
        show(failure);
    } else if (!failure && state.failed?.kind === "config") {
        show(null);
    }
}

// The curves: loss and similarities a few times per second, recall after each epoch.
function drawCurves() {
    const of = (name, field) => ({ name, points: state.curve.map((one) => [one.at, one[field]]) });
    const recall = (name, side) => ({ name, points: state.epochs.map((one) => [one.epoch, one.val[side].r1]) });
    const whole = state.epochs.length;
    const end = Math.max(1, whole, state.curve.at(-1)?.at ?? 0);
    lines(at("chart-loss"), "Loss", whole, end, [of("loss", "loss")]);
    lines(at("chart-similarities"), "Similarities", whole, end, [of("positive", "positive"), of("hardest negative", "hardest")]);
    lines(at("chart-recall"), "Recall on validation, in percent", whole, end, [recall("caption R@1", "i2t"), recall("picture R@1", "t2i")]);
}

function drawCharts() {
    drawCurves();
    const last = state.epochs.at(-1);
    const tile = (id, value, digits) => (at(id).textContent = Number.isFinite(value) ? value.toFixed(digits) : "–");
    tile("i2t", last?.val.i2t.r1, 1);
    tile("t2i", last?.val.t2i.r1, 1);
    tile("rsum", last?.val.rsum, 1);
    tile("loss", last?.loss, 3);
    at("epochs").tBodies[0].replaceChildren(...state.epochs.map((e) => {
        const row = document.createElement("tr");
        const cells = [e.epoch, e.loss.toFixed(4), e.positive.toFixed(3), e.hardest.toFixed(3), e.val.i2t.r1.toFixed(1), e.val.t2i.r1.toFixed(1), e.val.rsum.toFixed(1), e.seconds.toFixed(1)];
        row.append(...cells.map((text) => Object.assign(document.createElement("td"), { textContent: text })));
        return row;
    }));
}

function showPoints(points) {
    maps.forEach((map) => map.setPoints([...points]));
}

// What a run tells while it goes on.
function heard(data) {
    if (data.event === "step") {
        const { epoch, step, steps } = data;
        at("progress").value = (epoch - 1 + step / steps) / Math.max(state.wanted, epoch);
    } else if (data.event === "look") {
        // A run that goes on from a checkpoint repeats steps.
        state.curve = thinned([...state.curve.filter((one) => one.at < data.at), data]);
        drawCurves();
        // With reduced motion the points move once per epoch.
        if (!still.matches || Number.isInteger(data.at)) {
            showPoints(data.points);
        }
    } else if (data.event === "epoch") {
        const epoch = JSON.parse(data.line);
        state.epochs.push(epoch);
        state.lines.push(data.line);
        drawCharts();
        const note = epoch.collapse ? ` ${epoch.collapse}` : "";
        say(`Epoch ${epoch.epoch} of ${state.wanted}: loss ${epoch.loss.toFixed(3)}, R@1 ${epoch.val.i2t.r1.toFixed(1)} and ${epoch.val.t2i.r1.toFixed(1)} percent.${note}`);
        refresh();
    }
}

// The points of a curve, at most 1000: where there are more, the mean of each two.
function thinned(points) {
    if (points.length <= 1000) {
        return points;
    }
    const mean = (k, field) => (points[k][field] + points[k + 1][field]) / 2;
    const pair = (k) => ({ at: points[k + 1].at, loss: mean(k, "loss"), positive: mean(k, "positive"), hardest: mean(k, "hardest") });
    return Array.from({ length: points.length >> 1 }, (_, half) => pair(2 * half));
}

// Trains until the run ends, is stopped or fails.
async function train() {
    state.running = true;
    refresh();
    try {
        if (state.stopping) {
            // The request came before the run had begun.
            ask("stop");
        }
        await ask("train");
        say(`Done: ${state.epochs.length} epochs. Download the head below, or search.`);
        await search();
    } catch (failure) {
        if (failure.kind === "stopped") {
            say(`Stopped after ${state.epochs.length} whole epochs. Continue goes on from here.`);
        } else {
            show(failure);
            say(failure.kind === "device" ? "The device was lost." : "The run has failed.");
        }
    } finally {
        state.running = false;
        refresh();
    }
}

at("train").onclick = async () => {
    try {
        show(null);
        const wanted = options();
        [state.running, state.stopping] = [true, false];
        refresh();
        await reopen();
        say("Preparing.");
        await ask("start", [wanted]);
        [state.epochs, state.lines, state.curve, state.started] = [[], [], [], true];
        state.wanted = JSON.parse(wanted).epochs;
        at("progress").value = 0;
        drawCharts();
        showPoints([]);
        say("Training.");
    } catch (failure) {
        state.running = false;
        show(failure);
        say("The run did not start.");
        refresh();
        return;
    }
    await train();
};

at("stop").onclick = () => {
    say("Stopping after this step.");
    state.stopping = true;
    ask("stop");
};

at("continue").onclick = async () => {
    try {
        show(null);
        [state.running, state.stopping] = [true, false];
        refresh();
        await reopen();
        const wanted = number("epochs-wanted");
        const more = state.epochs.length >= state.wanted && !(wanted > state.wanted);
        state.wanted = more ? state.epochs.length + 5 : Math.max(state.wanted, Number.isSafeInteger(wanted) ? wanted : 1);
        await ask("resume", [state.wanted]);
        say("Training goes on.");
    } catch (failure) {
        state.running = false;
        show(failure);
        say("The run did not go on.");
        refresh();
        return;
    }
    await train();
};

at("save-head").onclick = async () => {
    try {
        save("best.safetensors", await ask("head"), "application/octet-stream");
    } catch (failure) {
        show(failure);
    }
};
at("save-metrics").onclick = () => save("metrics.jsonl", `${state.lines.join("\n")}\n`, "application/jsonl");

// Lists the captions with the words that are looked for.
function listCaptions() {
    const words = at("query").value.toLowerCase().split(/\s+/).filter(Boolean);
    const fits = ([, caption]) => words.every((word) => caption.toLowerCase().includes(word));
    const found = (state.data?.captions ?? []).filter(fits).slice(0, 200);
    at("captions").replaceChildren(...found.map(([row, caption]) => Object.assign(document.createElement("option"), { value: row, textContent: caption })));
    if (found.length === 0) {
        at("captions").append(Object.assign(document.createElement("option"), { value: "", textContent: state.data?.captions.length ? "no caption with these words" : "this dataset has no captions" }));
    }
}

async function search() {
    const row = at("captions").value;
    if (row === "" || !state.started) {
        return;
    }
    if (!state.running) {
        await reopen();
    }
    const caption = at("captions").selectedOptions[0].textContent;
    const [before, after] = await ask("search", [Number(row)]);
    at("found-for").textContent = `Found for “${caption}”:`;
    for (const [id, found] of [["found-before", before], ["found-after", after]]) {
        at(id).replaceChildren(...(found ?? []).map(({ name, captions, similarity, right }) => {
            const item = document.createElement("li");
            item.textContent = `${right ? "✓ " : ""}${name.split("/").at(-1)} (${similarity.toFixed(2)})${captions.length ? `: ${captions[0]}` : ""}`;
            return item;
        }));
        if (!found) {
            at(id).textContent = "Not trained yet.";
        }
    }
}

at("search").onsubmit = async (event) => {
    event.preventDefault();
    try {
        await search();
    } catch (failure) {
        show(failure);
    }
};
at("query").oninput = listCaptions;

// Opens a dataset. If it fails, the one before it stays.
async function load(name, files) {
    try {
        show(null);
        const moved = files.filter((one) => one instanceof Uint8Array).map((one) => one.buffer);
        state.data = await ask("load", [name, files], moved);
        const { images, texts, widths, splits, chance } = state.data;
        at("data-summary").textContent = `${state.data.name}: ${images} images of ${widths[0]} numbers, ${texts} captions of ${widths[1]} numbers; ${splits[0]} images for training, ${splits[1]} for validation, ${splits[2]} for the test. Chance reaches a sum of recalls of ${chance.toFixed(1)}.`;
        [state.started, state.epochs, state.lines, state.curve] = [false, [], [], []];
        drawCharts();
        showPoints([]);
        at("found-for").textContent = "";
        at("found-before").replaceChildren();
        at("found-after").replaceChildren();
        listCaptions();
        say(`${state.data.name} is open. Press Train.`);
    } catch (failure) {
        show(failure);
        say("The data was not opened.");
    }
    refresh();
}

// Opens the files that `choose` gives.
async function loadFiles(choose) {
    try {
        const { name, files } = await choose;
        await load(name, await contents(files));
    } catch (failure) {
        show(failure);
        say("The data was not opened.");
    }
}

at("files").onchange = async (event) => {
    await loadFiles(chosen(event.target));
    event.target.value = "";
};
at("folder").onchange = at("files").onchange;
at("own-example").onclick = async () => {
    try {
        await load("clipart-mini", await example());
    } catch (failure) {
        show(failure);
    }
};
const drop = at("drop");
drop.ondragover = (event) => {
    event.preventDefault();
    drop.classList.add("over");
};
drop.ondragleave = () => drop.classList.remove("over");
drop.ondrop = async (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    if (!state.running) {
        await loadFiles(dropped(event.dataTransfer));
    }
};

async function open() {
    state.device = await ask("open", ["gpu"]);
    state.lost = false;
    const { backend, adapter, limits } = state.device;
    const rows = [
        ["Device", adapter || "not told by the browser"],
        ["Interface", backend],
        ["The program runs in", state.place],
        ["Largest buffer", `${(limits.buffer / 2 ** 20).toFixed(0)} MiB`],
        ["Largest binding", `${(state.device.max_binding / 2 ** 20).toFixed(0)} MiB`],
        ["Workgroup memory", `${(limits.workgroup_memory / 1024).toFixed(0)} KiB`],
        ["Invocations of a workgroup", limits.invocations],
        ["Storage buffers of a shader", limits.storage_buffers],
    ];
    at("device").replaceChildren(...rows.flatMap(([name, value]) => [
        Object.assign(document.createElement("dt"), { textContent: name }),
        Object.assign(document.createElement("dd"), { textContent: value }),
    ]));
}

// Opens the device again if it was lost.
async function reopen() {
    if (state.lost) {
        say("Opening the device again.");
        await open();
    }
}

at("options").onsubmit = (event) => event.preventDefault();
at("objective").onchange = showParameters;
at("parameters").oninput = showMap;
let typed = 0;
at("weights").oninput = () => {
    markWeights(null);
    clearTimeout(typed);
    typed = setTimeout(showParameters, 300);
};
at("weights").onscroll = () => (at("gutter").style.transform = `translateY(${-at("weights").scrollTop}px)`);
at("weights").value = WEIGHTS;
for (const [label, names] of OBJECTIVES) {
    const group = Object.assign(document.createElement("optgroup"), { label });
    group.append(...names.map((name) => Object.assign(document.createElement("option"), { value: name, textContent: name === "custom" ? "your own gradient" : name })));
    at("objective").append(group);
}
at("objective").value = "cir:sig-ms";

// For tests: what the page knows, and the program.
window.wgoal = { state, ask, maps };

async function begin() {
    drawCharts();
    try {
        await open();
    } catch (failure) {
        if (failure.kind === "no-webgpu") {
            at("no-webgpu").hidden = false;
            at("no-webgpu-why").textContent = failure.message;
            say("This browser cannot train.");
        } else {
            show(failure);
        }
        return;
    }
    await showParameters();
    try {
        await load("clipart-mini", await example());
    } catch (failure) {
        show(failure);
    }
}
begin();
