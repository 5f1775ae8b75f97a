// Triplet weight times pair weights of every anchor, one direction
//
//   T:   con 1        nca  sigma(tau (n - p))        cir  sigma(tau ((1 - p)^2 + n^2 - 2 m^2))
//
//            P+                                P-
//   con      1                                 1
//   lin      1 - p                             n
//   lin-ms   (1 - R+) (1 - p)                  (1 + R-) n
//   sig      sigma(-alpha (p - lambda))        sigma(beta (n - lambda))
//   sig-ms   1 / (e^(alpha (p-lambda)) + R+)   1 / (e^(-beta (n-lambda)) + R-)
//   circle   max(1 + m - p, 0)                 max(n + m, 0)     with T circle = sigma(tau (P- (n-m) + P+ (1-m-p)))
//   contrastive  1                             [n > lambda]
//
// Reference: docs/math.md, "Triplet weights", "Pair weights" and "Named losses".
//
// R+ and R- are the means over the relative sets, 0 if a set is empty. With `hinge`, a triplet with margin + n - p <= 0
// is closed: its coefficients and its loss are 0. With `exclude_own`, an anchor whose hardest negative is its own pair
// has no negative, and its triplet is closed too.
// Some losses are a function of p plus a function of n. If an anchor has several negatives, the function of p counts
// once. `positive` says whether it counts with every triplet, once in this dispatch, or in another dispatch.
//
//   positive      [pairs] p                                              read
//   value         [pairs] n                                              read
//   index         [pairs] h                                              read
//   sums          [pairs] relative sums (relative.wgsl), zero if unused  read
//   coefficients  [pairs] (scale T P+, scale T P-)                       overwritten
//   loss          [pairs] by `loss`; 0 if the triplet is closed          overwritten
//
// A custom weight file replaces the section `weights` (src/objective/custom). Both sections are also copied into
// dense_sum.wgsl and dense_field.wgsl.
// Grid: one invocation per pair.

struct Params {
    pairs: u32,
    triplet: u32,    // TRIPLET_...
    pair: u32,       // PAIR_...
    loss: u32,       // LOSS_...
    hinge: u32,
    exclude_own: u32,
    positive: u32,   // P+ counts 0: with every triplet, 1: once, 2: in another dispatch
    tau: f32,
    alpha: f32,
    beta: f32,
    lambda: f32,
    circle: f32,     // the circle margin m
    margin: f32,
    scale: f32,
    custom_params_0: f32,      // parameters of a custom weight file
    custom_params_1: f32,
    custom_params_2: f32,
    custom_params_3: f32,
    custom_params_4: f32,
    custom_params_5: f32,
    custom_params_6: f32,
    custom_params_7: f32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> positive: array<f32>;
@group(0) @binding(2) var<storage, read> value: array<f32>;
@group(0) @binding(3) var<storage, read> index: array<u32>;
@group(0) @binding(4) var<storage, read> sums: array<vec4f>;
@group(0) @binding(5) var<storage, read_write> coefficients: array<vec2f>;
@group(0) @binding(6) var<storage, read_write> loss: array<f32>;

const LANES = 64u;

// The host writes these numbers (src/kernels/weights.rs).
// section numbers
const TRIPLET_CON = 0u;
const TRIPLET_NCA = 1u;
const TRIPLET_CIR = 2u;
const TRIPLET_CIRCLE = 3u;
const PAIR_CON = 0u;
const PAIR_LIN = 1u;
const PAIR_LIN_MS = 2u;
const PAIR_SIG = 3u;
const PAIR_SIG_MS = 4u;
const PAIR_CIRCLE = 5u;
const PAIR_CONTRASTIVE = 6u;
const LOSS_TRIPLET = 0u;
const LOSS_NT_XENT = 1u;
const LOSS_SQUARED_PAIR = 2u;
const LOSS_BINOMIAL_DEVIANCE = 3u;
const LOSS_CIRCLE = 4u;
const LOSS_CIRCLE_DETACHED = 5u;
const LOSS_CONTRASTIVE = 6u;
const LOSS_MULTI_SIMILARITY = 7u;
const LOSS_LIFTED = 8u;
// end of section

// section weights
// e^z with a clamped exponent, so that e^z and 1 / e^z are normal numbers.
fn bounded_exp(z: f32) -> f32 {
    return exp(clamp(z, -87.0, 87.0));
}

fn sigma(z: f32) -> f32 {
    return 1.0 / (1.0 + bounded_exp(-z));
}

fn triplet_weight(p: f32, n: f32) -> f32 {
    switch params.triplet {
        case TRIPLET_NCA: { return sigma(params.tau * (n - p)); }
        case TRIPLET_CIRCLE: {
            let pull = max(1.0 + params.circle - p, 0.0);
            let push = max(n + params.circle, 0.0);
            return sigma(params.tau * (push * (n - params.circle) + pull * (1.0 - params.circle - p)));
        }
        case TRIPLET_CIR: { return sigma(params.tau * ((1.0 - p) * (1.0 - p) + n * n - 2.0 * params.circle * params.circle)); }
        default: { return 1.0; }
    }
}

fn pair_weights(p: f32, n: f32, r: vec2f) -> vec2f {
    let zp = params.alpha * (p - params.lambda);
    let zn = -params.beta * (n - params.lambda);
    switch params.pair {
        case PAIR_LIN: { return vec2f(1.0 - p, n); }
        case PAIR_LIN_MS: { return vec2f((1.0 - r.x) * (1.0 - p), (1.0 + r.y) * n); }
        case PAIR_SIG: { return vec2f(1.0 / (bounded_exp(zp) + 1.0), 1.0 / (bounded_exp(zn) + 1.0)); }
        case PAIR_SIG_MS: { return vec2f(1.0 / (bounded_exp(zp) + r.x), 1.0 / (bounded_exp(zn) + r.y)); }
        case PAIR_CIRCLE: { return vec2f(max(1.0 + params.circle - p, 0.0), max(n + params.circle, 0.0)); }
        case PAIR_CONTRASTIVE: { return vec2f(1.0, select(0.0, 1.0, n > params.lambda)); }
        default: { return vec2f(1.0); }
    }
}

fn weigh(open: f32, p: f32, n: f32, relative: vec2f) -> vec2f {
    return open * triplet_weight(p, n) * pair_weights(p, n, relative);
}
// end of section

// section triplet
// log(1 + u) for u >= 0. A series near 0 keeps the digits that 1 + u would lose.
fn log_one_plus(u: f32) -> f32 {
    let w = u / (2.0 + u);
    let series = 2.0 * w * (1.0 + w * w * (1.0 / 3.0 + w * w * (1.0 / 5.0 + w * w * (1.0 / 7.0 + w * w / 9.0))));
    return select(log(1.0 + u), series, u < 0.5);
}

fn softplus(z: f32) -> f32 {
    return max(z, 0.0) + log_one_plus(exp(max(-abs(z), -87.0)));
}

// The part in p and the part in n of the losses that are a sum of both.
fn positive_loss(p: f32) -> f32 {
    switch params.loss {
        case LOSS_SQUARED_PAIR: { return 0.5 * (1.0 - p) * (1.0 - p); }
        case LOSS_BINOMIAL_DEVIANCE: { return softplus(-params.alpha * (p - params.lambda)) / params.alpha; }
        case LOSS_CONTRASTIVE: { return 1.0 - p; }
        default: { return 0.0; }
    }
}

fn negative_loss(n: f32) -> f32 {
    switch params.loss {
        case LOSS_SQUARED_PAIR: { return 0.5 * n * n; }
        case LOSS_BINOMIAL_DEVIANCE: { return softplus(params.beta * (n - params.lambda)) / params.beta; }
        case LOSS_CONTRASTIVE: { return max(n - params.lambda, 0.0); }
        default: { return 0.0; }
    }
}

// The loss of an open triplet (docs/math.md, "Named losses").
fn anchor_loss(p: f32, n: f32, cost: f32) -> f32 {
    let m = params.circle;
    switch params.loss {
        case LOSS_NT_XENT: { return softplus(params.tau * (n - p)) / params.tau; }
        case LOSS_CIRCLE: { return softplus(params.tau * ((1.0 - p) * (1.0 - p) + n * n - 2.0 * m * m)) / (2.0 * params.tau); }
        case LOSS_CIRCLE_DETACHED: {
            let z = max(n + m, 0.0) * (n - m) + max(1.0 + m - p, 0.0) * (1.0 - m - p);
            return softplus(params.tau * z) / params.tau;
        }
        case LOSS_SQUARED_PAIR, LOSS_BINOMIAL_DEVIANCE, LOSS_CONTRASTIVE: { return positive_loss(p) + negative_loss(n); }
        default: { return cost; }
    }
}

// Coefficient of the positive and its loss, if the positive counts once.
fn weighed_positive(p: f32) -> vec2f {
    if (params.positive != 1u) {
        return vec2f(0.0);
    }
    return vec2f(weigh(params.scale, p, 0.0, vec2f(0.0)).x, positive_loss(p));
}

// Coefficients of the positive and of the negative, and the loss. r holds R+ and R-.
fn weighed_triplet(p: f32, n: f32, r: vec2f) -> vec3f {
    var cost = n - p;
    if (params.hinge != 0u) {
        cost += params.margin;
        if (cost <= 0.0) {
            return vec3f(0.0);
        }
    }
    let weighed = weigh(params.scale, p, n, r);
    if (params.positive != 0u) {
        return vec3f(0.0, weighed.y, negative_loss(n));
    }
    return vec3f(weighed, anchor_loss(p, n, cost));
}
// end of section

@compute @workgroup_size(LANES)
fn main(@builtin(global_invocation_id) id: vec3u) {
    let i = id.x;
    if (i >= params.pairs) {
        return;
    }
    let s = sums[i];
    var weighed = vec3f(0.0);
    if (params.exclude_own == 0u || index[i] != i) {
        weighed = weighed_triplet(positive[i], value[i], s.xz / max(s.yw, vec2f(1.0)));
    }
    let own = weighed_positive(positive[i]);
    weighed += vec3f(own.x, 0.0, own.y);
    coefficients[i] = weighed.xy;
    loss[i] = weighed.z;
}
