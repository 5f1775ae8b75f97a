// Composition of the gradient: row i of A Y, where A has at most three entries a pair             (goal-math.md section 5)
//
//   dx_i = - (c+own_i + c+other_i) y_i  +  c-own_i y_(h_i)  +  sum over j with g_j = i of  c-other_j y_j
//
// `own` is the direction whose anchors are the rows of dx, h its hardest negatives; `other` is the opposite direction,
// g its. With the two exchanged, and X in the place of Y, it is the gradient at the texts. Each row gathers what it is
// due, in ascending j: no atomics, the same bits every time. The j of a row lie together in the order of mining.
//
//   y            [y_rows, cols] rows y_offset.. of Y: the others add nothing. Those from `pairs` on are a memory bank's,
//                which is mined but no anchor    read
//   own, other   [pairs] coefficients (c+, c-)                                    read
//   own_index    [pairs] h                                                        read
//   other_keys   [keys] g_j pairs + j in ascending order (mined_order.wgsl)       read
//   gradient     [rows, cols] rows row_offset.. of dX; overwritten, or added to when accumulate
//
// The gradient is not called dx in the code: DXC has a namespace of that name.
// Grid: x over vec4s of a row / LANES, or fewer, each with several; y over the rows of the gradient.

struct Params {
    stride4: u32,   // vec4s in a row
    accumulate: u32,
    row_offset: u32,
    y_offset: u32,
    y_rows: u32,
    pairs: u32,
    keys: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> y: array<vec4f>;
@group(0) @binding(2) var<storage, read> own: array<vec2f>;
@group(0) @binding(3) var<storage, read> own_index: array<u32>;
@group(0) @binding(4) var<storage, read> other: array<vec2f>;
@group(0) @binding(5) var<storage, read> other_keys: array<u32>;
@group(0) @binding(6) var<storage, read_write> gradient: array<vec4f>;

const LANES = 64u;

// The vec4 at column k of row j of Y, zero where the row is not among those here.
fn y_at(j: u32, k: u32) -> vec4f {
    if (j < params.y_offset || j - params.y_offset >= params.y_rows) {
        return vec4f(0.0);
    }
    return y[(j - params.y_offset) * params.stride4 + k];
}

// The place of the first key that is not below `wanted`.
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
    let away = own[i].x + other[i].x;
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
        // Not a branch: on a uniform one, lavapipe compiles a kernel anew at every dispatch.
        gradient[at] = sum + select(vec4f(0.0), gradient[at], params.accumulate != 0u);
    }
}
