// Weights of generalised pooling, for every length K that occurs
//
//   m_t = (h_t forward + h_t backward) / 2      theta = softmax over t < K of v . m_t / 0.1
//
// Reference: docs/math.md, "Generalised pooling"; Chen et al. (2021).
//
//   states   [(1 + lengths) * slots, hidden]   of gru.wgsl                                     read
//   v        [hidden]                                                                          read
//   lengths  [lengths] K                                                                       read
//   mean     [lengths * slots, hidden]         m, zero for t >= K                              overwritten
//   theta    [lengths, slots]                  zero for t >= K                                 overwritten
//
// Grid: one workgroup per length; its lanes share the positions.

struct Params {
    slots: u32,
    stride4: u32,        // vec4s in a row of the states
    sharpness: f32,      // 1 / temperature
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> states: array<vec4f>;
@group(0) @binding(2) var<storage, read> v: array<vec4f>;
@group(0) @binding(3) var<storage, read> lengths: array<u32>;
@group(0) @binding(4) var<storage, read_write> mean: array<vec4f>;
@group(0) @binding(5) var<storage, read_write> theta: array<f32>;

const LANES = 64u;
const NOTHING = -3.4e38;     // below every score
var<workgroup> partial: array<f32, LANES>;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
    let length = lengths[group.x];
    let first = group.x * params.slots;
    var top = NOTHING;
    for (var t = lane; t < params.slots; t += LANES) {
        var s = 0.0;
        for (var k = 0u; k < params.stride4; k += 1u) {
            let both = states[t * params.stride4 + k] + states[(params.slots + first + t) * params.stride4 + k];
            let m = select(vec4f(0.0), 0.5 * both, t < length);
            mean[(first + t) * params.stride4 + k] = m;
            s += dot(v[k], m);
        }
        s *= params.sharpness;
        theta[first + t] = s;
        if (t < length) {
            top = max(top, s);
        }
    }
    partial[lane] = top;
    workgroupBarrier();
    for (var half = LANES / 2u; half > 0u; half /= 2u) {
        if (lane < half) {
            partial[lane] = max(partial[lane], partial[lane + half]);
        }
        workgroupBarrier();
    }
    top = partial[0];
    workgroupBarrier();
    var sum = 0.0;
    for (var t = lane; t < params.slots; t += LANES) {
        // Each lane reads only what it wrote itself.
        var e = 0.0;
        if (t < length) {
            e = exp(max(theta[first + t] - top, -87.0));
        }
        theta[first + t] = e;
        sum += e;
    }
    partial[lane] = sum;
    workgroupBarrier();
    for (var half = LANES / 2u; half > 0u; half /= 2u) {
        if (lane < half) {
            partial[lane] += partial[lane + half];
        }
        workgroupBarrier();
    }
    let total = partial[0];
    for (var t = lane; t < params.slots; t += LANES) {
        theta[first + t] /= total;
    }
}
