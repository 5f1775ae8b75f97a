// Backward of the weights of the generalised pooling operator                                       (vse-models.md section 2.1)
//
//   dtheta_t = sum over the items of length K, in ascending order, of their part      ds_t = theta_t (dtheta_t - theta . dtheta) / 0.1
//
//   parts     [rows]              of gpo_dots.wgsl: each item's part, at its own rows           read
//   offsets   [items + 1]         item i owns the rows offsets_i .. offsets_(i+1)               read
//   kind      [items]             row of theta that belongs to the item's length                read
//   lengths   [lengths] K                                                                       read
//   theta     [lengths, slots]                                                                  read
//   d_scores  [lengths, slots]    ds, zero for t >= K                                           overwritten
//
// Grid: one workgroup a length; lanes share the positions.

struct Params {
    slots: u32,
    items: u32,
    sharpness: f32,      // one over the temperature
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> parts: array<f32>;
@group(0) @binding(2) var<storage, read> offsets: array<u32>;
@group(0) @binding(3) var<storage, read> kind: array<u32>;
@group(0) @binding(4) var<storage, read> lengths: array<u32>;
@group(0) @binding(5) var<storage, read> theta: array<f32>;
@group(0) @binding(6) var<storage, read_write> d_scores: array<f32>;

const LANES = 64u;
var<workgroup> partial: array<f32, LANES>;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
    let length = lengths[group.x];
    let first = group.x * params.slots;
    var along = 0.0;
    for (var t = lane; t < params.slots; t += LANES) {
        var d_theta = 0.0;
        if (t < length) {
            for (var i = 0u; i < params.items; i += 1u) {
                if (kind[i] == group.x) {
                    d_theta += parts[offsets[i] + t];
                }
            }
        }
        d_scores[first + t] = d_theta;
        along += theta[first + t] * d_theta;
    }
    partial[lane] = along;
    workgroupBarrier();
    for (var half = LANES / 2u; half > 0u; half /= 2u) {
        if (lane < half) {
            partial[lane] += partial[lane + half];
        }
        workgroupBarrier();
    }
    along = partial[0];
    for (var t = lane; t < params.slots; t += LANES) {
        // Each lane reads what it wrote itself.
        d_scores[first + t] = params.sharpness * theta[first + t] * (d_scores[first + t] - along);
    }
}
