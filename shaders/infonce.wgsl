// Field of the symmetric InfoNCE; overwrites S
//
//   z = s / t       a_ij = share_it (softmax_j(z_i.) - q_ij) + share_ti (softmax_i(z_.j) - q_ij)
//   A_ij = scale a_ij / (2 B t)          dt_i = - scale sum_j (a_ij s_ij) / (2 B t^2)
//   loss_i = (log sum e^z - mean z of the targets) / (2 B), for each direction
//
// Reference: docs/math.md, "InfoNCE" and "InfoNCE without overflow"; Zeng et al. (2022).
//
// q is 1 / (number of targets) at targets and 0 elsewhere. Roles are those of log_sum_exp.wgsl; pairs that are left out
// have A = 0. With the state (max s, Z, G, m) and x = (s - max s) / t:
//
//   softmax = e^x / Z          softmax - 1/m = (m (e^x - 1) - G) / (m Z)
//   log sum e^z - mean z of the targets = distance / (m t) + log Z          and log Z = log(1 + G) where m = 1
//
// With same_image = 3, q is the share of a target in the sum of e^z over all targets. The state is (n, N, p, P): n is the
// maximum of the negatives, N is their sum of e^x, and p and P are those of the targets. With u = (n - p) / t + log(N / P):
//
//   softmax = e^((s - n) / t) sigma(u) / N at a negative        softmax - q = -e^((s - p) / t) sigma(u) / P at a target
//   loss = log(1 + e^u)
//
// These forms keep all digits of a small loss, as a single target far above the others gives it. The rows of
// (softmax - q) add up to 0, and so do its columns. So dt uses s - max s, or s - n, in place of s, which loses no digits
// where all s are alike.
//
//   ids                 [pairs] image of each pair                          read
//   temperature         [1] t                                               read
//   state_it, state_ti  [pairs] from log_sum_exp.wgsl                       read
//   field               [rows, pairs] S of rows row_offset..                replaced by A
//   dt                  [pairs, 4] column 0: parts of the gradient at t     rows of the block overwritten
//   loss_it, loss_ti    [pairs] the distance of log_sum_exp.wgsl            rows of the block replaced by the loss
//
// Grid: one workgroup per row of the block.

struct Params {
    rows: u32,
    pairs: u32,
    stride: u32,       // floats in a row of field
    row_offset: u32,
    same_image: u32,   // as in log_sum_exp.wgsl
    scale: f32,
    share_it: f32,     // factor of each direction
    share_ti: f32,
    images: u32,       // rows of S in all; fewer than `pairs` if images have several texts (docs/math.md, "Several texts")
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> ids: array<u32>;
@group(0) @binding(2) var<storage, read> temperature: array<f32>;
@group(0) @binding(3) var<storage, read> state_it: array<vec4f>;
@group(0) @binding(4) var<storage, read> state_ti: array<vec4f>;
@group(0) @binding(5) var<storage, read_write> field: array<f32>;
@group(0) @binding(6) var<storage, read_write> dt: array<vec4f>;
@group(0) @binding(7) var<storage, read_write> loss_it: array<f32>;
@group(0) @binding(8) var<storage, read_write> loss_ti: array<f32>;

const LANES = 64u;
const LEFT_OUT = -3.0e38;   // similarities below are left out
const SUMMED = 3u;
var<workgroup> partial: array<f32, LANES>;

fn role(anchor: u32, candidate: u32) -> u32 {
    if (candidate == anchor) {
        return 1u;
    }
    if (params.same_image == 0u) {
        return 0u;
    }
    let same = select(params.same_image, 1u, params.same_image == SUMMED);
    return select(0u, same, ids[candidate] == ids[anchor]);
}

// e^x - 1 for x <= 0. A series near 0 keeps the digits that the difference would lose.
fn exp_minus_one(x: f32) -> f32 {
    let series = x * (1.0 + x / 2.0 * (1.0 + x / 3.0 * (1.0 + x / 4.0 * (1.0 + x / 5.0 * (1.0 + x / 6.0)))));
    return select(exp(x) - 1.0, series, x > -0.25);
}

// log(1 + u) for u >= 0. A series near 0 keeps the digits that 1 + u would lose.
fn log_one_plus(u: f32) -> f32 {
    let w = u / (2.0 + u);
    let series = 2.0 * w * (1.0 + w * w * (1.0 / 3.0 + w * w * (1.0 / 5.0 + w * w * (1.0 / 7.0 + w * w / 9.0))));
    return select(log(1.0 + u), series, u < 0.5);
}

// u of an anchor whose targets' probabilities add up. It must have a negative.
fn log_odds(rate: f32, state: vec4f) -> f32 {
    return rate * (state.x - state.z) + log(state.y / state.w);
}

// softmax - q of an anchor.
fn coefficient(s: f32, rate: f32, state: vec4f, is_target: bool) -> f32 {
    if (params.same_image == SUMMED) {
        if (state.y <= 0.0) {
            return 0.0;
        }
        let sigma = 1.0 / (1.0 + exp(clamp(-log_odds(rate, state), -87.0, 87.0)));
        let own = select(state.xy, state.zw, is_target);
        let x = max(rate * (s - own.x), -87.0);
        return select(sigma, -sigma, is_target) * (exp(x) / own.y);
    }
    let x = max(rate * (s - state.x), -87.0);
    if (is_target) {
        return (state.w * exp_minus_one(x) - state.z) / (state.w * state.y);
    }
    return exp(x) / state.y;
}

fn cross_entropy(state: vec4f, distance: f32, rate: f32) -> f32 {
    if (params.same_image == SUMMED) {
        if (state.y <= 0.0) {
            return 0.0;
        }
        let u = log_odds(rate, state);
        return max(u, 0.0) + log_one_plus(exp(max(-abs(u), -87.0)));
    }
    return rate * distance / state.w + select(log(state.y), log_one_plus(state.z), state.w == 1.0);
}

// The largest similarity of the anchor, or that of its negatives.
fn centre(state: vec4f) -> f32 {
    return select(state.x, state.z, params.same_image == SUMMED && state.y <= 0.0);
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
    let i = group.x + params.row_offset;
    let start = group.x * params.stride;
    let rate = 1.0 / temperature[0];
    let share = params.scale / (2.0 * f32(params.pairs));
    let row = state_it[i];
    var sum = 0.0;
    for (var j = lane; j < params.pairs; j += LANES) {
        let s = field[start + j];
        let column = state_ti[j];
        let part = role(i, j);
        var a = vec2f(0.0);
        if (part != 2u && s >= LEFT_OUT) {
            a = vec2f(coefficient(s, rate, row, part == 1u), coefficient(s, rate, column, part == 1u));
            a = vec2f(params.share_it * a.x, params.share_ti * a.y);
            sum += a.x * (s - centre(row)) + a.y * (s - centre(column));
        }
        field[start + j] = share * rate * (a.x + a.y);
    }
    partial[lane] = sum;
    workgroupBarrier();
    for (var half = LANES / 2u; half > 0u; half /= 2u) {
        if (lane < half) {
            partial[lane] += partial[lane + half];
        }
        workgroupBarrier();
    }
    if (lane == 0u) {
        dt[i] = vec4f(-share * rate * rate * partial[0], 0.0, 0.0, 0.0);
        loss_it[i] = cross_entropy(row, loss_it[i], rate) / (2.0 * f32(params.pairs));
        for (var t = i; t < params.pairs; t += params.images) {
            loss_ti[t] = cross_entropy(state_ti[t], loss_ti[t], rate) / (2.0 * f32(params.pairs));
        }
    }
}
