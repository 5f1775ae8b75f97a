// Gated recurrent units over the encodings of positions, with a start state of zero
//
//   r = sigma(p_r + W_r h + b_r)      z = sigma(p_z + W_z h + b_z)      q = W_c h + b_c
//   c = tanh(p_c + r q)               h' = (1 - z) c + z h              p = W_i e_t + b_i at position t
//
// Reference: docs/math.md, "GRU".
//
// A chain is one run over positions. Chain 0 runs forward over all positions. An item of length K uses its first K
// states. Chain k > 0 runs backward over the first lengths_(k-1) positions. Each chain owns `slots` rows, one per
// position. Rows past the end of a chain are zero. The weights have the rows of the forward direction (r, z, c), then
// those of the backward one.
//
//   projected  [slots, 6 hidden]            p                     read
//   weight     [6 hidden, hidden]           W                     read
//   bias       [6 hidden]                   b                     read
//   lengths    [chains - 1]                                       read
//   states     [chains * slots, hidden]     h'                    overwritten
//   previous   [chains * slots, hidden]     h                     overwritten
//   gates      [chains * slots, 4 hidden]   r, z, c, q            overwritten
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
@group(0) @binding(1) var<storage, read> projected: array<f32>;
@group(0) @binding(2) var<storage, read> weight: array<vec4f>;
@group(0) @binding(3) var<storage, read> bias: array<f32>;
@group(0) @binding(4) var<storage, read> lengths: array<u32>;
@group(0) @binding(5) var<storage, read_write> states: array<f32>;
@group(0) @binding(6) var<storage, read_write> previous: array<f32>;
@group(0) @binding(7) var<storage, read_write> gates: array<f32>;

const LANES = 64u;
var<workgroup> h: array<f32, LANES>;

fn sigma(a: f32) -> f32 {
    return 1.0 / (1.0 + exp(clamp(-a, -87.0, 87.0)));
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
    let chain = group.x;
    var length = params.longest;
    var first = 0u;          // first row of W, b and p that belongs to the direction
    if (chain > 0u) {
        length = lengths[chain - 1u];
        first = 3u * params.hidden;
    }
    let own = lane < params.hidden;
    let j = min(lane, params.hidden - 1u);
    let row = vec3u(first + j) + vec3u(0u, 1u, 2u) * params.hidden;
    let w = row * params.hidden_stride / 4u;
    h[lane] = 0.0;
    workgroupBarrier();
    for (var step = 0u; step < params.slots; step += 1u) {
        let inside = step < length;
        let t = select(step, length - 1u - step, inside && chain > 0u);
        let at = chain * params.slots + t;
        var a = vec3f(bias[row.x], bias[row.y], bias[row.z]);
        for (var k = 0u; k < params.hidden_stride / 4u; k += 1u) {
            let four = vec4f(h[4u * k], h[4u * k + 1u], h[4u * k + 2u], h[4u * k + 3u]);
            a += vec3f(dot(weight[w.x + k], four), dot(weight[w.y + k], four), dot(weight[w.z + k], four));
        }
        let p = t * params.projected_stride;
        let r = sigma(projected[p + row.x] + a.x);
        let z = sigma(projected[p + row.y] + a.y);
        let c = tanh(clamp(projected[p + row.z] + r * a.z, -15.0, 15.0));
        let before = h[j];
        let after = (1.0 - z) * c + z * before;
        if (lane < params.hidden_stride) {
            previous[at * params.hidden_stride + lane] = select(0.0, before, inside && own);
            states[at * params.hidden_stride + lane] = select(0.0, after, inside && own);
        }
        if (own) {
            let gate = select(vec4f(0.0), vec4f(r, z, c, a.z), inside);
            let g = at * 4u * params.hidden + j;
            gates[g] = gate.x;
            gates[g + params.hidden] = gate.y;
            gates[g + 2u * params.hidden] = gate.z;
            gates[g + 3u * params.hidden] = gate.w;
        }
        workgroupBarrier();
        if (inside && own) {
            h[lane] = after;
        }
        workgroupBarrier();
    }
}
