// Sums and sizes of the relative sets U and V of every anchor, for the pair weights lin-ms and sig-ms, one direction
//
//   p_min = min_j p_j
//   U_i = { j != i              :  p_j  <= n_i + threshold }      u_ij = p_i - p_j      or  exp(alpha (p_i - p_j))
//   V_i = { k != i, k != h_i    :  M_ik >= p_min - threshold }    v_ik = n_i - M_ik     or  exp(-beta (n_i - M_ik))
//
// Reference: docs/math.md, "Relative sets".
//
// A linear value of exactly 0 leaves its set. An exponential leaves its set if it would underflow to 0 in double
// precision. If it underflows only in single precision, it stays and counts as e^-87, the smallest number in use.
// Blocks and strides are those of hardest.wgsl. The sums of V over several blocks add up. U has anchors j, not candidates,
// so the first block sums all of it.
//
//   similarity  block of S                      read
//   ids         [pairs] as in hardest.wgsl      read
//   positive    [pairs] p                       read; j runs over the first `all_anchors`
//   value       [pairs] n                       read
//   index       [pairs] h                       read
//   sums        [pairs] sum over U, size of U, sum over V, size of V; overwritten by the first block, then added to
//
// Grid: one workgroup per anchor of the block.

struct Params {
    anchors: u32,
    candidates: u32,
    anchor_stride: u32,
    candidate_stride: u32,
    anchor_offset: u32,
    candidate_offset: u32,
    mask: u32,
    all_anchors: u32,
    exponential: u32,
    alpha: f32,
    beta: f32,
    threshold: f32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> similarity: array<f32>;
@group(0) @binding(2) var<storage, read> ids: array<u32>;
@group(0) @binding(3) var<storage, read> positive: array<f32>;
@group(0) @binding(4) var<storage, read> value: array<f32>;
@group(0) @binding(5) var<storage, read> index: array<u32>;
@group(0) @binding(6) var<storage, read_write> sums: array<vec4f>;

const LANES = 64u;
const UNDERFLOW = -745.13;   // exp below this is 0 in double precision
var<workgroup> lowest: array<f32, LANES>;
var<workgroup> partial: array<vec4f, LANES>;

// (value, 1) for a member of the set, (0, 0) for a value that leaves it.
fn member(difference: f32, rate: f32) -> vec2f {
    if (params.exponential == 0u) {
        return select(vec2f(0.0), vec2f(difference, 1.0), difference != 0.0);
    }
    let exponent = rate * difference;
    return select(vec2f(0.0), vec2f(exp(clamp(exponent, -87.0, 88.0)), 1.0), exponent > UNDERFLOW);
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
    let anchor = group.x + params.anchor_offset;
    let start = group.x * params.anchor_stride;
    var low = 3.4e38;
    for (var j = lane; j < params.all_anchors; j += LANES) {
        low = min(low, positive[j]);
    }
    lowest[lane] = low;
    workgroupBarrier();
    for (var half = LANES / 2u; half > 0u; half /= 2u) {
        if (lane < half) {
            lowest[lane] = min(lowest[lane], lowest[lane + half]);
        }
        workgroupBarrier();
    }
    let floor_of_v = lowest[0] - params.threshold;
    let p = positive[anchor];
    let n = value[anchor];
    let h = index[anchor];
    var sum = vec4f(0.0);
    let first = params.candidate_offset == 0u;
    for (var j = lane; first && j < params.all_anchors; j += LANES) {
        if (j != anchor && positive[j] <= n + params.threshold) {
            sum += vec4f(member(p - positive[j], params.alpha), 0.0, 0.0);
        }
    }
    for (var c = lane; c < params.candidates; c += LANES) {
        let candidate = c + params.candidate_offset;
        if (candidate == anchor) {
            continue;
        }
        var masked = false;
        if (params.mask != 0u) {
            masked = ids[candidate] == ids[anchor];
        }
        let s = similarity[start + c * params.candidate_stride];
        if (candidate != h && !masked && s >= floor_of_v) {
            sum += vec4f(0.0, 0.0, member(n - s, -params.beta));
        }
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
        if (params.candidate_offset == 0u) {
            sums[anchor] = partial[0];
        } else {
            sums[anchor] += partial[0];
        }
    }
}
