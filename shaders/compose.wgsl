// Gradient at the embeddings: row i of A Y, where the field A has at most three nonzero elements for each pair
//
//   dx_i = - (c+own_i + c+other_i) y_i (with `positive`)  +  c-own_i y_(h_i)  +  sum over j with g_j = i of  c-other_j y_j
//
// Reference: docs/math.md, "Assembled gradient". c+ and c- are the coefficients of the positive and of the negative.
//
// `own` is the direction whose anchors are the rows of dx; h are its hardest negatives. `other` is the opposite
// direction; g are its hardest negatives. Exchange own and other, and replace Y by X, to get the gradient at the texts.
// Each row reads its own terms, in ascending order of j. So the kernel needs no atomics and gives the same bits every
// time. `other_keys` is sorted, so all j with g_j = i are neighbours in it.
//
//   y            [y_rows, cols] rows y_offset.. of Y; rows of Y that are not here add nothing. Rows from `pairs` on
//                belong to a memory bank: they are mined, but they are not anchors    read
//   own, other   [pairs] coefficients (c+, c-)                                    read
//   own_index    [pairs] h                                                        read
//   other_keys   [keys] g_j pairs + j in ascending order (mined_order.wgsl)       read
//   gradient     [rows, cols] rows row_offset.. of dX; overwritten, or added to when accumulate is set
//
// The gradient is not named dx in the code, because DXC (the HLSL compiler) has a namespace of that name.
// Grid: x covers the vec4s of a row / LANES, or fewer workgroups that handle several each; y covers the rows of the
// gradient.

struct Params {
    stride4: u32,   // vec4s in a row
    accumulate: u32,
    row_offset: u32,
    y_offset: u32,
    y_rows: u32,
    pairs: u32,
    keys: u32,
    positive: u32,   // whether the own pair is the positive
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> y: array<vec4f>;
@group(0) @binding(2) var<storage, read> own: array<vec2f>;
@group(0) @binding(3) var<storage, read> own_index: array<u32>;
@group(0) @binding(4) var<storage, read> other: array<vec2f>;
@group(0) @binding(5) var<storage, read> other_keys: array<u32>;
@group(0) @binding(6) var<storage, read_write> gradient: array<vec4f>;

const LANES = 64u;

// The vec4 at column k of row j of Y; zero if row j is not in this part of Y.
fn y_at(j: u32, k: u32) -> vec4f {
    if (j < params.y_offset || j - params.y_offset >= params.y_rows) {
        return vec4f(0.0);
    }
    return y[(j - params.y_offset) * params.stride4 + k];
}

// Position of the first key that is at least `wanted`.
fn first_key(wanted: u32) -> u32 {
    var low = 0u;
    var high = params.keys;
    while (low < high) {
        let middle = (low + high) / 2u;
        if (other_keys[middle] < wanted) {
            low = middle + 1u;
        } else {
            high = middle;
        }
    }
    return low;
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
        @builtin(global_invocation_id) id: vec3u) {
    let i = group.y + params.row_offset;
    let h = own_index[i];
    let towards = own[i].y;
    let away = select(0.0, own[i].x + other[i].x, params.positive != 0u);
    let wanted = i * params.pairs;
    let first = first_key(wanted);
    var end = first;
    while (end < params.keys && other_keys[min(end, params.keys - 1u)] - wanted < params.pairs) {
        end += 1u;
    }
    for (var k = id.x; k < params.stride4; k += LANES * groups.x) {
        var sum = towards * y_at(h, k) - away * y_at(i, k);
        for (var at = first; at < end; at += 1u) {
            let j = other_keys[at] - wanted;
            sum += other[j].y * y_at(j, k);
        }
        let at = group.y * params.stride4 + k;
        // Not an if: with a uniform branch, lavapipe compiles the kernel again at every dispatch.
        gradient[at] = sum + select(vec4f(0.0), gradient[at], params.accumulate != 0u);
    }
}
