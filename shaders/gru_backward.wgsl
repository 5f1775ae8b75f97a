// Backward through time of gru.wgsl, from the gradients at the scores s_t = v . h'_t / 2
//
//   g  = ds_t v / 2 + (gradient from the step after)                   gradient at h'
//   dz = g (h - c) z (1 - z)     dc = g (1 - z) (1 - c^2)     dr = dc q r (1 - r)     dq = dc r
//   gradient to the step before:  g z + W_r' dr + W_z' dz + W_c' dq
//
// Reference: docs/math.md, "GRU".
//
// All items share the states of chain 0, so its ds is the sum of ds over all lengths.
//
//   d_scores  [chains - 1, slots]             zero past the end of a chain                     read
//   v         [hidden]                                                                         read
//   weight    [6 hidden, hidden]              W                                                read
//   lengths   [chains - 1]                                                                     read
//   previous  [chains * slots, hidden]        h                                                read
//   gates     [chains * slots, 4 hidden]      r, z, c, q                                       read
//   d_input   [chains * slots, 6 hidden]      dr, dz, dc in the columns of the direction, zero elsewhere    overwritten
//   d_hidden  [chains * slots, 6 hidden]      dr, dz, dq in the columns of the direction, zero elsewhere    overwritten
//
// Grid: one workgroup per chain; one lane per unit.

struct Params {
    hidden: u32,
    slots: u32,
    longest: u32,            // positions of chain 0
    chains: u32,
    hidden_stride: u32,      // floats in a row of W and of the states
    projected_stride: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> d_scores: array<f32>;
@group(0) @binding(2) var<storage, read> v: array<f32>;
@group(0) @binding(3) var<storage, read> weight: array<f32>;
@group(0) @binding(4) var<storage, read> lengths: array<u32>;
@group(0) @binding(5) var<storage, read> previous: array<f32>;
@group(0) @binding(6) var<storage, read> gates: array<f32>;
@group(0) @binding(7) var<storage, read_write> d_input: array<f32>;
@group(0) @binding(8) var<storage, read_write> d_hidden: array<f32>;

const LANES = 64u;
var<workgroup> dr: array<f32, LANES>;
var<workgroup> dz: array<f32, LANES>;
var<workgroup> dq: array<f32, LANES>;

// Column j of W, at four rows.
fn column_of(row: vec4u, j: u32) -> vec4f {
    let at = row * params.hidden_stride + j;
    return vec4f(weight[at.x], weight[at.y], weight[at.z], weight[at.w]);
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
    let chain = group.x;
    let hidden = params.hidden;
    var length = params.longest;
    var first = 0u;          // first column that belongs to the direction
    if (chain > 0u) {
        length = lengths[chain - 1u];
        first = 3u * hidden;
    }
    let own = lane < hidden;
    let j = min(lane, hidden - 1u);
    var carry = 0.0;         // gradient from the step after
    for (var step = 0u; step < params.slots; step += 1u) {
        let inside = step < length;
        let t = select(step, length - 1u - step, inside && chain == 0u);
        let at = chain * params.slots + t;
        var all = 0.0;
        for (var other = 0u; other + 1u < params.chains; other += 1u) {
            all += d_scores[other * params.slots + t];
        }
        let ds = select(d_scores[(max(chain, 1u) - 1u) * params.slots + t], all, chain == 0u);
        let gate = at * 4u * hidden + j;
        let r = gates[gate];
        let z = gates[gate + hidden];
        let c = gates[gate + 2u * hidden];
        let q = gates[gate + 3u * hidden];
        let g = 0.5 * ds * v[j] + carry;
        let dc = g * (1.0 - z) * (1.0 - c * c);
        let d_z = g * (previous[at * params.hidden_stride + j] - c) * z * (1.0 - z);
        let d = select(vec4f(0.0), vec4f(dc * q * r * (1.0 - r), d_z, dc, dc * r), inside && own);
        dr[lane] = d.x;
        dz[lane] = d.y;
        dq[lane] = d.w;
        let out = at * params.projected_stride;
        if (own) {
            // `to` are the columns of this direction, `none` those of the other direction.
            let to = vec3u(out + first + j) + vec3u(0u, 1u, 2u) * hidden;
            d_input[to.x] = d.x;
            d_input[to.y] = d.y;
            d_input[to.z] = d.z;
            d_hidden[to.x] = d.x;
            d_hidden[to.y] = d.y;
            d_hidden[to.z] = d.w;
            let none = vec3u(out + 3u * hidden - first + j) + vec3u(0u, 1u, 2u) * hidden;
            d_input[none.x] = 0.0;
            d_input[none.y] = 0.0;
            d_input[none.z] = 0.0;
            d_hidden[none.x] = 0.0;
            d_hidden[none.y] = 0.0;
            d_hidden[none.z] = 0.0;
        }
        if (6u * hidden + lane < params.projected_stride) {
            d_input[out + 6u * hidden + lane] = 0.0;
            d_hidden[out + 6u * hidden + lane] = 0.0;
        }
        workgroupBarrier();
        var sum = g * z;
        for (var k = 0u; k < hidden; k += 4u) {
            // The gradients of units past the last one are zero, so repeating its row adds nothing.
            let unit = min(vec4u(k) + vec4u(0u, 1u, 2u, 3u), vec4u(hidden - 1u)) + vec4u(first);
            sum += dot(column_of(unit, j), vec4f(dr[k], dr[k + 1u], dr[k + 2u], dr[k + 3u]));
            sum += dot(column_of(unit + hidden, j), vec4f(dz[k], dz[k + 1u], dz[k + 2u], dz[k + 3u]));
            sum += dot(column_of(unit + 2u * hidden, j), vec4f(dq[k], dq[k + 1u], dq[k + 2u], dq[k + 3u]));
        }
        carry = sum;
        workgroupBarrier();
    }
}
