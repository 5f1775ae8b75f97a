// Backward of generalised pooling to the weights, for each item: part_t = sum over d of g_id f_(t)d
//
// Reference: docs/math.md, "Generalised pooling". gpo_weights_backward.wgsl adds the parts of the items to dtheta.
//
//   g         [items, cols]       gradient at the pooled rows                                     read
//   features  [rows, cols] f                                                                      read
//   order     [rows, cols]        of gpo_order.wgsl                                               read
//   offsets   [items + 1]         item i owns the rows offsets_i .. offsets_(i+1)                 read
//   parts     [rows]                                                                              overwritten
//
// Grid: x covers the positions of the longest item, y covers the items; one workgroup each. Workgroups past the end of
// their item do nothing.

struct Params {
    stride4: u32,        // vec4s in a row
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> g: array<vec4f>;
@group(0) @binding(2) var<storage, read> features: array<f32>;
@group(0) @binding(3) var<storage, read> order: array<vec4u>;
@group(0) @binding(4) var<storage, read> offsets: array<u32>;
@group(0) @binding(5) var<storage, read_write> parts: array<f32>;

const LANES = 64u;
var<workgroup> partial: array<f32, LANES>;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
    let first = offsets[group.y];
    let inside = group.x < offsets[group.y + 1u] - first;
    let width = select(0u, params.stride4, inside);
    var sum = 0.0;
    for (var d = lane; d < width; d += LANES) {
        let row = vec4u(first) + order[(first + group.x) * params.stride4 + d];
        let at = row * params.stride4 * 4u + 4u * d;
        let f = vec4f(features[at.x], features[at.y + 1u], features[at.z + 2u], features[at.w + 3u]);
        sum += dot(g[group.y * params.stride4 + d], f);
    }
    partial[lane] = sum;
    workgroupBarrier();
    for (var half = LANES / 2u; half > 0u; half /= 2u) {
        if (lane < half) {
            partial[lane] += partial[lane + half];
        }
        workgroupBarrier();
    }
    if (lane == 0u && inside) {
        parts[first + group.x] = partial[0];
    }
}
