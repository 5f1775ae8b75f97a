// Generalised pooling: every dimension's values, sorted in descending order, by the weights of the item's length
//
//   x_id = sum over t < K of theta_t f_(t)d            f_(0)d >= f_(1)d >= ...          (vse-models.md section 2.1)
//
// The rank of a value is the number of those before it: larger ones, and of equal ones those of a lower row.
//
//   features  [rows, cols] f                                                                  read
//   offsets   [items + 1]         item i owns the rows offsets_i .. offsets_(i+1)             read
//   kind      [items]             row of theta that belongs to the item's length              read
//   theta     [lengths, slots]                                                                read
//   pooled    [items, cols] x                                                                 overwritten
//   order     [rows, cols]        at an item's t-th row: which of its rows holds f_(t)d       overwritten
//
// Grid: x over vec4s of a row / LANES, y items from item_offset on.

struct Params {
    stride4: u32,        // vec4s in a row of the features
    slots: u32,
    item_offset: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> features: array<vec4f>;
@group(0) @binding(2) var<storage, read> offsets: array<u32>;
@group(0) @binding(3) var<storage, read> kind: array<u32>;
@group(0) @binding(4) var<storage, read> theta: array<f32>;
@group(0) @binding(5) var<storage, read_write> pooled: array<vec4f>;
@group(0) @binding(6) var<storage, read_write> order: array<u32>;

const LANES = 64u;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(global_invocation_id) id: vec3u) {
    let item = group.y + params.item_offset;
    let d = id.x;
    if (d >= params.stride4) {
        return;
    }
    let first = offsets[item];
    let count = offsets[item + 1u] - first;
    let weights = kind[item] * params.slots;
    let at = first * params.stride4 + d;
    var sum = vec4f(0.0);
    for (var k = 0u; k < count; k += 1u) {
        let f = features[at + k * params.stride4];
        var rank = vec4u(0u);
        for (var j = 0u; j < k; j += 1u) {
            rank += select(vec4u(0u), vec4u(1u), features[at + j * params.stride4] >= f);
        }
        for (var j = k + 1u; j < count; j += 1u) {
            rank += select(vec4u(0u), vec4u(1u), features[at + j * params.stride4] > f);
        }
        // Were a value not a number, ranks could coincide; they never leave the item.
        let w = vec4f(theta[weights + rank.x], theta[weights + rank.y], theta[weights + rank.z], theta[weights + rank.w]);
        sum += w * f;
        let to = (vec4u(first) + rank) * params.stride4 * 4u + 4u * d;
        order[to.x] = k;
        order[to.y + 1u] = k;
        order[to.z + 2u] = k;
        order[to.w + 3u] = k;
    }
    pooled[item * params.stride4 + d] = sum;
}
