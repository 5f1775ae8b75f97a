// Backward of the weights of generalised pooling
//
//   dtheta_t = sum of part_t over the items of length K, in ascending order of the items
//   ds_t = theta_t (dtheta_t - theta . dtheta) / 0.1
//
// Reference: docs/math.md, "Generalised pooling".
//
//   parts     [rows]              of gpo_dots.wgsl, at the rows of each item                    read
//   offsets   [items + 1]         item i owns the rows offsets_i .. offsets_(i+1)               read
//   length_bucket  [items]        row of theta for the item's length                            read
//   lengths   [lengths] K                                                                       read
//   theta     [lengths, slots]                                                                  read
//   d_scores  [lengths, slots]    ds, zero for t >= K                                           overwritten
//
// Grid: one workgroup per length; its lanes share the positions.

struct Params {
    slots: u32,
    items: u32,
    sharpness: f32,      // 1 / temperature
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> parts: array<f32>;
@group(0) @binding(2) var<storage, read> offsets: array<u32>;
@group(0) @binding(3) var<storage, read> length_bucket: array<u32>;
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
                if (length_bucket[i] == group.x) {
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
        // Each lane reads only what it wrote itself.
        d_scores[first + t] = params.sharpness * theta[first + t] * (d_scores[first + t] - along);
    }
}
