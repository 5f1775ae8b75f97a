// What the tests and the benchmark share: a server of the page, Chromium with WebGPU on SwiftShader, and the command line.
const assert = require("node:assert/strict");
const { execFileSync, spawn } = require("node:child_process");
const fs = require("node:fs");
const http = require("node:http");
const path = require("node:path");
const { chromium } = require("playwright-core");

const { OUT, WGOAL } = process.env;
const FLAGS = ["--no-sandbox", "--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader", "--enable-features=Vulkan", "--disable-background-networking", "--no-first-run"];
const KINDS = { html: "text/html", css: "text/css", js: "text/javascript", wasm: "application/wasm" };

// Serves the page. Returns the server, with its address.
async function serve() {
    const server = http.createServer((request, answer) => {
        const name = new URL(request.url, "http://x").pathname;
        const file = path.join(OUT, path.normalize(name === "/" ? "/index.html" : name));
        fs.readFile(file, (error, bytes) => {
            answer.writeHead(error ? 404 : 200, { "content-type": KINDS[file.split(".").pop()] ?? "application/octet-stream" });
            answer.end(bytes);
        });
    });
    await new Promise((done) => server.listen(0, "127.0.0.1", done));
    server.page = `http://localhost:${server.address().port}/`;
    return server;
}

function launch(args = FLAGS) {
    return chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args });
}

// Opens the page. What it says on the console, and what it asks of other servers, are its faults.
async function open(browser, address, options = {}) {
    const page = await browser.newPage({ viewport: { width: 1280, height: 900 }, ...options });
    page.faults = [];
    page.on("console", (message) => message.type() === "error" && page.faults.push(message.text()));
    page.on("pageerror", (error) => page.faults.push(String(error)));
    page.on("request", (request) => !/^(http:\/\/localhost:|data:|blob:)/.test(request.url()) && page.faults.push(request.url()));
    await page.goto(address);
    return page;
}

// Waits until a page can train.
async function ready(page) {
    await page.waitForFunction(() => !document.getElementById("train").disabled || !document.getElementById("error").hidden, null, { timeout: 60_000 });
    assert.equal(await page.textContent("#error"), "");
    return page;
}

// A browser that chromedriver drives. Playwright keeps every tab visible; here a tab behind another is hidden, as for people.
// Returns a function that sends a command of the WebDriver protocol, and one that ends the browser.
async function drive() {
    const driver = spawn("chromedriver", ["--port=0"], { stdio: ["ignore", "pipe", "inherit"] });
    const port = await new Promise((done, failed) => {
        let text = "";
        driver.stdout.on("data", (more) => {
            text += more;
            const found = /started successfully on port (\d+)/.exec(text);
            found && done(found[1]);
        });
        driver.on("exit", () => failed(new Error(`chromedriver: expected to start, found ${text}`)));
    });
    let session = "/session";
    const send = async (method, name, body) => {
        const answer = await fetch(`http://127.0.0.1:${port}${session}${name}`, { method, body: body && JSON.stringify(body) });
        const { value } = await answer.json();
        if (value?.error) {
            throw new Error(`${name}: ${value.error}: ${value.message}`);
        }
        return value;
    };
    const args = [...FLAGS, "--headless", "--window-size=1280,900"];
    const { sessionId } = await send("POST", "", { capabilities: { alwaysMatch: { "goog:chromeOptions": { args } } } });
    session += `/${sessionId}`;
    const end = async () => {
        await send("DELETE", "");
        driver.kill();
    };
    return { send, end };
}

// What a command prints.
const run = (...args) => execFileSync(WGOAL, args, { encoding: "utf8", cwd: path.join(__dirname, "../.."), stdio: ["ignore", "pipe", "pipe"] });

// What the command line says when it refuses.
run.fails = (...args) => {
    try {
        run(...args);
    } catch (error) {
        return `${error.stdout}${error.stderr}`;
    }
    return "";
};

module.exports = { drive, launch, open, ready, run, serve };
