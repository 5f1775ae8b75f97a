// Generalised pooling: the values of each dimension, sorted in descending order, weighted by theta
//
//   x_id = sum over t < K of theta_t f_(t)d            f_(0)d >= f_(1)d >= ...
//
// Reference: docs/math.md, "Generalised pooling"; Chen et al. (2021).
//
//   features  [rows, cols] f                                                                  read
//   order     [rows, cols]        of gpo_order.wgsl                                           read
//   offsets   [items + 1]         item i owns the rows offsets_i .. offsets_(i+1)             read
//   length_bucket  [items]        row of theta for the item's length                          read
//   theta     [lengths, slots]                                                                read
//   pooled    [items, cols] x                                                                 overwritten
//
// Grid: x covers the vec4s of a row / LANES, y covers the items.

struct Params {
    stride4: u32,        // vec4s in a row of the features
    slots: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> features: array<f32>;
@group(0) @binding(2) var<storage, read> order: array<vec4u>;
@group(0) @binding(3) var<storage, read> offsets: array<u32>;
@group(0) @binding(4) var<storage, read> length_bucket: array<u32>;
@group(0) @binding(5) var<storage, read> theta: array<f32>;
@group(0) @binding(6) var<storage, read_write> pooled: array<vec4f>;

const LANES = 64u;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(global_invocation_id) id: vec3u) {
    let d = id.x;
    if (d >= params.stride4) {
        return;
    }
    let first = offsets[group.y];
    let count = offsets[group.y + 1u] - first;
    var sum = vec4f(0.0);
    for (var t = 0u; t < count; t += 1u) {
        let row = vec4u(first) + order[(first + t) * params.stride4 + d];
        let at = row * params.stride4 * 4u + 4u * d;
        let f = vec4f(features[at.x], features[at.y + 1u], features[at.z + 2u], features[at.w + 3u]);
        sum += theta[length_bucket[group.y] * params.slots + t] * f;
    }
    pooled[group.y * params.stride4 + d] = sum;
}
