// The positive p of every anchor whose image has several pairs, one direction
//
//   hardest   p = min_k s_k                     state = (min s, m, the lowest k that attains it, 0)
//   mean      p = (sum_k s_k) / m               state = (min s, m, sum_k s_k, 0)
//   log-sum   p = -(1/rate) log sum_k e^f(s_k)  state = (min s, m, max_k f(s_k), sum_k e^(f(s_k) - max f))
//             with f(s) = -rate s
//   circle    p = (1/rate) log sum_k e^f(s_k)   the same state, with f(s) = rate max(1 + margin - s, 0) (1 - margin - s)
//
// Reference: docs/math.md, "Several positives".
//
// The k are the m pairs of the anchor's image. With `mined`, only those with s < n + reach count, where n is the hardest
// negative. An anchor without any has p = 0 and min s = 3.4e38.
// Blocks and strides are those of hardest.wgsl. A later block continues from the stored state.
//
//   similarity  block of S                      read
//   ids         [pairs] image of each pair      read
//   value       [pairs] n                       read
//   state       [pairs]                         updated
//   positive    [pairs] p                       overwritten
//   lowest      [pairs] min s                   overwritten
//
// Grid: one workgroup per anchor of the block.

struct Params {
    anchors: u32,
    candidates: u32,
    anchor_stride: u32,
    candidate_stride: u32,
    anchor_offset: u32,
    candidate_offset: u32,
    aggregate: u32,   // 0 hardest, 1 mean, 2 log-sum, 3 circle
    mined: u32,
    rate: f32,
    margin: f32,
    reach: f32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> similarity: array<f32>;
@group(0) @binding(2) var<storage, read> ids: array<u32>;
@group(0) @binding(3) var<storage, read> value: array<f32>;
@group(0) @binding(4) var<storage, read_write> state: array<vec4f>;
@group(0) @binding(5) var<storage, read_write> positive: array<f32>;
@group(0) @binding(6) var<storage, read_write> lowest: array<f32>;

const LANES = 64u;
const LEFT_OUT = -3.0e38;   // similarities below are left out
const NOTHING = 3.4e38;     // above every similarity; its negative is below every exponent
var<workgroup> partial: array<vec4f, LANES>;

fn is_positive(anchor: u32, candidate: u32, s: f32) -> bool {
    let same = ids[candidate] == ids[anchor] && s >= LEFT_OUT;
    return same && (params.mined == 0u || s < value[anchor] + params.reach);
}

// f(s)
fn exponent(s: f32) -> f32 {
    let m = params.margin;
    return select(-params.rate * s, params.rate * max(1.0 + m - s, 0.0) * (1.0 - m - s), params.aggregate == 3u);
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
    let anchor = group.x + params.anchor_offset;
    let start = group.x * params.anchor_stride;
    // min s, its k, max f
    var best = vec3f(NOTHING, NOTHING, -NOTHING);
    for (var c = lane; c < params.candidates; c += LANES) {
        let candidate = c + params.candidate_offset;
        let s = similarity[start + c * params.candidate_stride];
        if (is_positive(anchor, candidate, s)) {
            if (s < best.x) {
                best = vec3f(s, f32(candidate), best.z);
            }
            best.z = max(best.z, exponent(s));
        }
    }
    partial[lane] = vec4f(best, 0.0);
    workgroupBarrier();
    for (var half = LANES / 2u; half > 0u; half /= 2u) {
        if (lane < half) {
            let a = partial[lane];
            let b = partial[lane + half];
            let first = a.x < b.x || (a.x == b.x && a.y <= b.y);
            partial[lane] = vec4f(select(b.xy, a.xy, first), max(a.z, b.z), 0.0);
        }
        workgroupBarrier();
    }
    best = partial[0].xyz;
    var earlier = vec4f(NOTHING, 0.0, 0.0, 0.0);
    if (params.candidate_offset != 0u) {
        earlier = state[anchor];
    } else if (params.aggregate >= 2u) {
        earlier.z = -NOTHING;
    }
    let top = max(best.z, earlier.z);
    workgroupBarrier();
    // m, sum of s, sum of e^(f - top)
    var sum = vec4f(0.0);
    for (var c = lane; c < params.candidates; c += LANES) {
        let s = similarity[start + c * params.candidate_stride];
        if (is_positive(anchor, c + params.candidate_offset, s)) {
            sum += vec4f(1.0, s, exp(max(exponent(s) - top, -87.0)), 0.0);
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
        let sums = partial[0];
        var found = vec4f(min(best.x, earlier.x), earlier.y + sums.x, 0.0, 0.0);
        var p = found.x;
        if (params.aggregate == 0u) {
            // Earlier blocks hold lower k.
            found.z = select(earlier.z, best.y, best.x < earlier.x);
        } else if (params.aggregate == 1u) {
            found.z = earlier.z + sums.y;
            p = found.z / found.y;
        } else {
            found.z = top;
            found.w = earlier.w * exp(max(earlier.z - top, -87.0)) + sums.z;
            p = select(-1.0, 1.0, params.aggregate == 3u) * (top + log(found.w)) / params.rate;
        }
        state[anchor] = found;
        positive[anchor] = select(0.0, p, found.y > 0.0);
        lowest[anchor] = found.x;
    }
}
