// Descending order of the values of each dimension within an item
//
// Reference: docs/math.md, "Generalised pooling".
//
// The rank of a value is the number of values before it. These are the larger ones and, of equal ones, those of a lower
// row.
//
//   features  [rows, cols]                                                                    read
//   offsets   [items + 1]         item i owns the rows offsets_i .. offsets_(i+1)             read
//   order     [rows, cols]        at row t of an item: which of its rows, counted from its first, holds the value of
//                                 rank t                                                      overwritten
//
// Grid: x covers the vec4s of a row / LANES, y covers the rows of the longest item, z covers the items from item_offset
// on.

struct Params {
    stride4: u32,        // vec4s in a row of the features
    item_offset: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> features: array<vec4f>;
@group(0) @binding(2) var<storage, read> offsets: array<u32>;
@group(0) @binding(3) var<storage, read_write> order: array<u32>;

const LANES = 64u;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(global_invocation_id) id: vec3u) {
    let item = group.z + params.item_offset;
    let k = group.y;
    let d = id.x;
    let first = offsets[item];
    let count = offsets[item + 1u] - first;
    if (d >= params.stride4 || k >= count) {
        return;
    }
    let at = first * params.stride4 + d;
    let f = features[at + k * params.stride4];
    var rank = vec4u(0u);
    for (var j = 0u; j < k; j += 1u) {
        rank += select(vec4u(0u), vec4u(1u), features[at + j * params.stride4] >= f);
    }
    for (var j = k + 1u; j < count; j += 1u) {
        rank += select(vec4u(0u), vec4u(1u), features[at + j * params.stride4] > f);
    }
    let to = (vec4u(first) + rank) * params.stride4 * 4u + 4u * d;
    order[to.x] = k;
    order[to.y + 1u] = k;
    order[to.z + 2u] = k;
    order[to.w + 3u] = k;
}
