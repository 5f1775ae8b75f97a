// Line charts, and the map of an objective's weights with the triplets of a batch.

const WIDTH = 320, HEIGHT = 200, LEFT = 44, RIGHT = 10, TOP = 10, BOTTOM = 24;

function element(name, attributes, text) {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) {
        made.setAttribute(key, value);
    }
    if (text !== undefined) {
        made.textContent = text;
    }
    return made;
}

const round = (x) => (Math.abs(x) >= 100 ? x.toFixed(0) : Math.abs(x) >= 1 ? x.toFixed(1) : x.toFixed(3));

// Draws one or two lines over the epochs from 0 to `end`. `series` has names and points [place, value]; a value that is no
// number is left out. `whole` is the number of epochs that have ended.
export function lines(svg, title, whole, end, series) {
    svg.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
    svg.replaceChildren();
    const drawn = series.map((one) => ({ name: one.name, points: one.points.filter(([, value]) => Number.isFinite(value)) }));
    const values = drawn.flatMap((one) => one.points.map(([, value]) => value));
    let [low, high] = values.length ? [Math.min(...values), Math.max(...values)] : [0, 1];
    if (low === high) {
        [low, high] = [low - 0.5, high + 0.5];
    }
    const last = drawn.map((one) => `${one.name} ${one.points.length ? round(one.points.at(-1)[1]) : "none yet"}`).join(", ");
    const label = `${title}, ${whole} epochs. Last: ${last}.`;
    svg.setAttribute("aria-label", label);
    svg.append(element("title", {}, label));
    const x = (place) => LEFT + (place / end) * (WIDTH - LEFT - RIGHT);
    const y = (value) => TOP + ((high - value) / (high - low)) * (HEIGHT - TOP - BOTTOM);
    svg.append(element("path", { class: "axis", fill: "none", d: `M${LEFT} ${TOP}V${HEIGHT - BOTTOM}H${WIDTH - RIGHT}` }));
    svg.append(element("text", { x: LEFT - 4, y: TOP + 8, "text-anchor": "end" }, round(high)));
    svg.append(element("text", { x: LEFT - 4, y: HEIGHT - BOTTOM, "text-anchor": "end" }, round(low)));
    svg.append(element("text", { x: WIDTH - RIGHT, y: HEIGHT - 6, "text-anchor": "end" }, `epoch ${Math.ceil(end)}`));
    let name = LEFT + 4;
    drawn.forEach((one, at) => {
        const kind = at === 0 ? "one" : "two";
        const points = one.points.map(([place, value]) => [x(place), y(value)]);
        svg.append(element("polyline", { class: kind, points: points.map((p) => p.join(",")).join(" ") }));
        // Dots show where few values are; many would hide the line.
        if (points.length <= 20) {
            points.forEach(([cx, cy]) => svg.append(element("circle", { class: kind, cx, cy, r: 3 })));
        }
        svg.append(element("text", { class: kind, x: name, y: HEIGHT - 6 }, one.name));
        name += 16 + 6.6 * one.name.length;
    });
}

// The side of the map in points.
export const SIDE = 41;

// Whether people want little motion.
export const still = matchMedia("(prefers-reduced-motion: reduce)");

// The map of one weight over p (to the right) and n (upward), with triplets as points.
export class WeightMap {
    constructor(canvas, title) {
        this.canvas = canvas;
        this.title = title;
        this.weights = [];
        this.from = this.shown = this.target = [];
        this.frame = 0;
        matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
        this.draw();
    }

    setWeights(weights) {
        this.weights = weights;
        this.draw();
    }

    // Moves the points to new places.
    setPoints(points) {
        cancelAnimationFrame(this.frame);
        this.target = points;
        this.from = this.shown.length === points.length ? this.shown : points;
        if (still.matches || document.hidden || this.from === points) {
            this.shown = points;
            this.draw();
            return;
        }
        const begun = performance.now();
        const move = (now) => {
            // A clock of frames may begin before this moment.
            const t = Math.min(1, Math.max(0, now - begun) / 250);
            this.shown = points.map((v, k) => this.from[k] + (v - this.from[k]) * t);
            this.draw();
            if (t < 1) {
                this.frame = requestAnimationFrame(move);
            }
        };
        this.frame = requestAnimationFrame(move);
    }

    draw() {
        const { canvas, weights, shown } = this;
        const context = canvas.getContext("2d");
        const [width, height] = [canvas.width, canvas.height];
        const ink = getComputedStyle(document.body).color;
        context.fillStyle = getComputedStyle(canvas).backgroundColor;
        context.fillRect(0, 0, width, height);
        const most = Math.max(1e-9, ...weights.map(Math.abs));
        const cell = width / SIDE;
        weights.forEach((weight, k) => {
            const [p, n] = [Math.floor(k / SIDE), k % SIDE];
            const strength = Math.min(1, Math.abs(weight) / most);
            context.fillStyle = weight >= 0 ? `rgba(60, 130, 220, ${0.85 * strength})` : `rgba(220, 70, 60, ${0.85 * strength})`;
            // Edges at whole pixels leave no seams.
            const [left, right, top, bottom] = [p, p + 1, SIDE - 1 - n, SIDE - n].map((edge) => Math.round(edge * cell));
            context.fillRect(left, top, right - left, bottom - top);
        });
        context.strokeStyle = ink;
        context.globalAlpha = 0.4;
        context.beginPath();
        context.moveTo(0, height);
        context.lineTo(width, 0);
        context.stroke();
        context.globalAlpha = 1;
        context.fillStyle = ink;
        context.font = "12px system-ui, sans-serif";
        context.fillText("n = 1", 4, 14);
        context.fillText("−1", 4, height - 6);
        context.fillText("p = 1", width - 36, height - 6);
        // Points that overlap look darker, so that many of them still show where most are.
        context.globalAlpha = 0.5;
        for (let k = 0; k < shown.length; k += 2) {
            context.beginPath();
            context.arc(((shown[k] + 1) / 2) * width, ((1 - shown[k + 1]) / 2) * height, 2.5, 0, 2 * Math.PI);
            context.fill();
        }
        context.globalAlpha = 1;
        const range = weights.length ? `weights from ${round(Math.min(...weights))} to ${round(Math.max(...weights))}` : "no weights of single triplets";
        canvas.setAttribute("aria-label", `${this.title} over p and n: ${range}, ${shown.length / 2} triplets.`);
    }
}
