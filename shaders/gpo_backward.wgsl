// Backward of generalised pooling to the features: df_(t)d = theta_t g_id
//
// Reference: docs/math.md, "Generalised pooling".
//
//   g           [items, cols]       gradient at the pooled rows                                   read
//   order       [rows, cols]        of gpo_order.wgsl                                             read
//   offsets     [items + 1]         item i owns the rows offsets_i .. offsets_(i+1)               read
//   length_bucket  [items]          row of theta for the item's length                            read
//   theta       [lengths, slots]                                                                  read
//   d_features  [rows, cols]                                                                      overwritten
//
// Grid: x covers the vec4s of a row / LANES, y covers the items.

struct Params {
    stride4: u32,        // vec4s in a row
    slots: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> g: array<vec4f>;
@group(0) @binding(2) var<storage, read> order: array<vec4u>;
@group(0) @binding(3) var<storage, read> offsets: array<u32>;
@group(0) @binding(4) var<storage, read> length_bucket: array<u32>;
@group(0) @binding(5) var<storage, read> theta: array<f32>;
@group(0) @binding(6) var<storage, read_write> d_features: array<f32>;

const LANES = 64u;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(global_invocation_id) id: vec3u) {
    let d = id.x;
    if (d >= params.stride4) {
        return;
    }
    let first = offsets[group.y];
    let count = offsets[group.y + 1u] - first;
    let upstream = g[group.y * params.stride4 + d];
    for (var t = 0u; t < count; t += 1u) {
        let df = theta[length_bucket[group.y] * params.slots + t] * upstream;
        let row = vec4u(first) + order[(first + t) * params.stride4 + d];
        let to = row * params.stride4 * 4u + 4u * d;
        d_features[to.x] = df.x;
        d_features[to.y + 1u] = df.y;
        d_features[to.z + 2u] = df.z;
        d_features[to.w + 3u] = df.w;
    }
}
