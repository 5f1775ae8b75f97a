// Field of the losses that weigh all negatives of an anchor by exponentials; overwrites S
//
//   multi-similarity: L = (1/alpha) log(1 + e^(-alpha (p - lambda))) + (1/rate) log(1 + sum_k e^(rate (s_k - lambda)))
//   lifted structure: L = max(0, margin - p + (1/rate) log sum_k e^(rate s_k))
//
//   circle loss:      L = (1/rate) log(1 + e^(rate P+ (1 - margin - p)) sum_k e^f(s_k)),  f(s) = rate P-(s) (s - margin)
//                     with P+ = max(1 + margin - p, 0) and P-(s) = max(s + margin, 0), which are constants
//
//   w(s) = dL/ds = e^(rate (s - n)) / (Sigma + e^(rate (lambda - n)))    or    e^(rate (s - n)) / Sigma,  0 where L = 0,
//                  or  (1 - e^(-rate L)) P-(s) e^(f(s) - top) / Sigma
//   A_ij = scale (share_it w_i(S_ij) + share_ti w_j(S_ij)),  0 if i and j are not negatives
//   pull_i = -scale share dL_i/dp, of each direction      A_ii = -(pull_it_i + pull_ti_i) with `own`, else 0
//
// With `mined`, only negatives with s + reach > (the lowest positive) count, and L is 0 without one. With `aggregated`, p
// of the circle loss stands for the exponent P+ (1 - margin - p) (positives.wgsl), and P+ is 1.
//
// Reference: docs/math.md, "Multi-similarity and lifted structure" and "Circle loss"; Wang, Han et al. (2019), with one
// positive and without mining; Oh Song et al. (2016), with one positive and on similarities; Sun et al. (2020), eq. 6,
// with one positive.
//
//   ids                 [pairs] as in hardest.wgsl                          read
//   state_it, state_ti  [pairs] from exponential_sum.wgsl                   read
//   field               [rows, pairs] S of rows row_offset..                replaced by A
//   loss_it, loss_ti    [pairs] L                                           rows of the block overwritten
//   pull_it, pull_ti    [pairs] (pull, 0)                                   the same
//
// Grid: x covers columns / LANES, y covers the rows of the block.

struct Params {
    rows: u32,
    pairs: u32,
    stride: u32,       // floats in a row of field
    row_offset: u32,
    mask: u32,
    loss: u32,         // 0 multi-similarity, 1 lifted structure, 2 circle loss
    mined: u32,
    rate: f32,
    alpha: f32,
    lambda: f32,
    margin: f32,
    reach: f32,
    scale: f32,
    share_it: f32,     // factor of each direction
    share_ti: f32,
    own: u32,
    aggregated: u32,
    images: u32,       // as in infonce.wgsl
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> ids: array<u32>;
@group(0) @binding(2) var<storage, read> state_it: array<vec4f>;
@group(0) @binding(3) var<storage, read> state_ti: array<vec4f>;
@group(0) @binding(4) var<storage, read_write> field: array<f32>;
@group(0) @binding(5) var<storage, read_write> loss_it: array<f32>;
@group(0) @binding(6) var<storage, read_write> loss_ti: array<f32>;
@group(0) @binding(7) var<storage, read_write> pull_it: array<vec2f>;
@group(0) @binding(8) var<storage, read_write> pull_ti: array<vec2f>;

const LANES = 64u;
const LEFT_OUT = -3.0e38;   // similarities below are left out

fn bounded_exp(z: f32) -> f32 {
    return exp(clamp(z, -87.0, 87.0));
}

// log(1 + u) for u >= 0. A series near 0 keeps the digits that 1 + u would lose.
fn log_one_plus(u: f32) -> f32 {
    let w = u / (2.0 + u);
    let series = 2.0 * w * (1.0 + w * w * (1.0 / 3.0 + w * w * (1.0 / 5.0 + w * w * (1.0 / 7.0 + w * w / 9.0))));
    return select(log(1.0 + u), series, u < 0.5);
}

fn softplus(z: f32) -> f32 {
    return max(z, 0.0) + log_one_plus(bounded_exp(-abs(z)));
}

// Sigma; for multi-similarity plus the 1 inside the logarithm, as seen from the hardest negative.
fn denominator(state: vec4f) -> f32 {
    return state.z + select(bounded_exp(params.rate * (params.lambda - state.y)), 0.0, params.loss != 0u);
}

// P+, and the argument of the circle loss: L = log(1 + e^z) / rate.
fn circle(state: vec4f) -> vec2f {
    let m = params.margin;
    let factor = max(1.0 + m - state.x, 0.0);
    let top = max(max(state.y + m, 0.0) * (state.y - m), 0.0);
    let exponent = select(factor * (1.0 - m - state.x), state.x, params.aggregated != 0u);
    return vec2f(select(factor, 1.0, params.aggregated != 0u), params.rate * (top + exponent) + log(state.z));
}

fn sigmoid(z: f32) -> f32 {
    return 1.0 / (1.0 + bounded_exp(-z));
}

fn anchor_loss(state: vec4f) -> f32 {
    if (params.mined != 0u && state.z <= 0.0) {
        return 0.0;
    }
    if (params.loss == 0u) {
        // The larger of n and lambda is factored out, so only positive numbers are added.
        let above = state.y - params.lambda;
        let sum = select(log_one_plus(state.z * bounded_exp(params.rate * above)), log(denominator(state)), above > 0.0);
        let negatives = max(above, 0.0) + sum / params.rate;
        return softplus(-params.alpha * (state.x - params.lambda)) / params.alpha + negatives;
    }
    if (state.z <= 0.0) {
        return 0.0;
    }
    if (params.loss == 2u) {
        return softplus(circle(state).y) / params.rate;
    }
    return max(params.margin - state.x + state.y + log(state.z) / params.rate, 0.0);
}

fn pull(state: vec4f) -> f32 {
    if (params.mined != 0u && state.z <= 0.0) {
        return 0.0;
    }
    if (params.loss == 0u) {
        return 1.0 / (1.0 + bounded_exp(params.alpha * (state.x - params.lambda)));
    }
    if (params.loss == 2u) {
        if (state.z <= 0.0) {
            return 0.0;
        }
        let parts = circle(state);
        return sigmoid(parts.y) * parts.x;
    }
    return select(0.0, 1.0, anchor_loss(state) > 0.0);
}

fn push(s: f32, state: vec4f) -> f32 {
    if (params.mined != 0u && s + params.reach <= state.w) {
        return 0.0;
    }
    if (params.loss == 2u) {
        let m = params.margin;
        let top = max(max(state.y + m, 0.0) * (state.y - m), 0.0);
        let factor = max(s + m, 0.0);
        let x = max(params.rate * (factor * (s - m) - top), -87.0);
        return sigmoid(circle(state).y) * factor * exp(x) / state.z;
    }
    if (params.loss == 1u && anchor_loss(state) <= 0.0) {
        return 0.0;
    }
    return exp(max(params.rate * (s - state.y), -87.0)) / denominator(state);
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(global_invocation_id) id: vec3u) {
    let i = group.y + params.row_offset;
    let j = id.x;
    if (j >= params.pairs) {
        return;
    }
    let at = group.y * params.stride + j;
    let s = field[at];
    let row = state_it[i];
    let column = state_ti[j];
    var negative = i != j;
    if (params.mask != 0u) {
        negative = ids[i] != ids[j];
    }
    var a = 0.0;
    if (negative && s >= LEFT_OUT) {
        a = params.scale * (params.share_it * push(s, row) + params.share_ti * push(s, column));
    }
    if (i == j) {
        let pulls = params.scale * vec2f(params.share_it * pull(row), params.share_ti * pull(column));
        a = select(0.0, -(pulls.x + pulls.y), params.own != 0u);
        pull_it[i] = vec2f(pulls.x, 0.0);
        loss_it[i] = anchor_loss(row);
        for (var t = i; t < params.pairs; t += params.images) {
            pull_ti[t] = vec2f(params.scale * params.share_ti * pull(state_ti[t]), 0.0);
            loss_ti[t] = anchor_loss(state_ti[t]);
        }
    }
    field[at] = a;
}
