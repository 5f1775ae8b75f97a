// Matrix product that shares rows of A through subgroup broadcasts: C = op(A) op(B) (+ bias) (+ C)
//
// For software adapters with subgroups of 8 lanes or more. There, a load whose address differs between lanes costs as
// much as dozens of vector products. A workgroup is 8 lanes of one subgroup and computes 32 rows x 32 columns of C.
// Each lane computes 4 of the columns, in eight 4 x 4 accumulators. Each lane loads an eighth of the rows of A. A
// broadcast from a constant lane costs almost nothing and gives them to all lanes. This makes 8 loads for 512 products;
// matmul_registers.wgsl needs 16 loads for 256 products.
// The operands are images: llvmpipe loads from an image for all lanes at once, but from a buffer in a loop over the
// lanes.
//
//   a     [rows, inner], or [inner, rows] when A_TRANSPOSED        read, an image
//   b     [inner, cols], or [cols, inner] when B_TRANSPOSED        read, an image
//   bias  [cols], added to every row when add_bias is set          read
//   c     [rows, cols], overwritten, or added to when ACCUMULATE   read, write
//
// Row strides are in vec4s. Stored rows are padded to whole vec4s, and the padding is zero, in C as well.
// Grid: x covers columns / 32, y covers rows / 32.
// Browsers require `enable subgroups;` before the first line, and naga rejects it. So the line is not in this file.

struct Params {
    rows: u32,
    cols: u32,
    inner: u32,
    a_stride: u32,
    b_stride: u32,
    c_stride: u32,
    add_bias: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var a: texture_storage_2d<rgba32float, read>;
@group(0) @binding(2) var b: texture_storage_2d<rgba32float, read>;
@group(0) @binding(3) var<storage, read> bias: array<vec4f>;
@group(0) @binding(4) var<storage, read_write> c: array<vec4f>;

const A_TRANSPOSED = false;
const B_TRANSPOSED = true;
const ACCUMULATE = false;

// The vec4 at an index. An image has 2,048 of them per row.
fn load_a(i: u32) -> vec4f {
    return textureLoad(a, vec2u(i & 2047u, i >> 11u));
}

fn load_b(i: u32) -> vec4f {
    return textureLoad(b, vec2u(i & 2047u, i >> 11u));
}

// Rows and columns past the end repeat the last one, because an operand may be a part of a larger matrix.
fn read_a(row: u32, k: u32) -> vec4f {
    return load_a(min(row, params.rows - 1u) * params.a_stride + k / 4u);
}

// Rows row .. row+4 of op(A) at step k. Steps past the inner dimension are zero, through this function or, in read_a,
// through A's padding. So the values that B repeats there add nothing.
fn read_a_transposed(row: u32, k: u32) -> vec4f {
    let v = load_a(min(k, params.inner - 1u) * params.a_stride + min(row, params.rows - 1u) / 4u);
    return v * select(0.0, 1.0, k < params.inner);
}

// Column s of the result is op(B)[k + s, col .. col+4].
fn tile_b(k: u32, col: u32) -> mat4x4f {
    let s = params.b_stride;
    if (B_TRANSPOSED) {
        let last = params.cols - 1u;
        return transpose(mat4x4f(load_b(min(col, last) * s + k / 4u), load_b(min(col + 1u, last) * s + k / 4u),
                                 load_b(min(col + 2u, last) * s + k / 4u), load_b(min(col + 3u, last) * s + k / 4u)));
    }
    let last = params.inner - 1u;
    let at = min(col, params.cols - 1u) / 4u;
    return mat4x4f(load_b(min(k, last) * s + at), load_b(min(k + 1u, last) * s + at),
                   load_b(min(k + 2u, last) * s + at), load_b(min(k + 3u, last) * s + at));
}

// `low`: the values of lanes 0 to 3, one per column; `high`: those of lanes 4 to 7. Lane numbers must be constants.
fn low(v: vec4f) -> mat4x4f {
    return mat4x4f(subgroupBroadcast(v, 0u), subgroupBroadcast(v, 1u),
                   subgroupBroadcast(v, 2u), subgroupBroadcast(v, 3u));
}

fn high(v: vec4f) -> mat4x4f {
    return mat4x4f(subgroupBroadcast(v, 4u), subgroupBroadcast(v, 5u),
                   subgroupBroadcast(v, 6u), subgroupBroadcast(v, 7u));
}

fn store(row: u32, col: u32, added: vec4f, product: vec4f) {
    if (row >= params.rows || col >= params.cols) {
        return;
    }
    let inside = vec4u(col, col + 1u, col + 2u, col + 3u) < vec4u(params.cols);
    var value = select(vec4f(0.0), product + added, inside);
    let at = row * params.c_stride + col / 4u;
    if (ACCUMULATE) {
        value += c[at];
    }
    c[at] = value;
}

fn store_tile(row: u32, col: u32, added: vec4f, tile: mat4x4f) {
    store(row, col, added, tile[0]);
    store(row + 1u, col, added, tile[1]);
    store(row + 2u, col, added, tile[2]);
    store(row + 3u, col, added, tile[3]);
}

fn either(a: mat4x4f, b: mat4x4f, second: bool) -> mat4x4f {
    return mat4x4f(select(a[0], b[0], second), select(a[1], b[1], second),
                   select(a[2], b[2], second), select(a[3], b[3], second));
}

@compute @workgroup_size(8)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(subgroup_invocation_id) lane: u32) {
    let row = group.y * 32u;
    let col = group.x * 32u + lane * 4u;
    // Column r of accumulator i holds row 4 i + r of the outputs.
    var c0 = mat4x4f();
    var c1 = mat4x4f();
    var c2 = mat4x4f();
    var c3 = mat4x4f();
    var c4 = mat4x4f();
    var c5 = mat4x4f();
    var c6 = mat4x4f();
    var c7 = mat4x4f();
    for (var k = 0u; k < params.inner; k += 4u) {
        let y = tile_b(k, col);
        if (A_TRANSPOSED) {
            // Each lane loads four rows at each of the four steps.
            let s0 = read_a_transposed(row + lane * 4u, k);
            let s1 = read_a_transposed(row + lane * 4u, k + 1u);
            let s2 = read_a_transposed(row + lane * 4u, k + 2u);
            let s3 = read_a_transposed(row + lane * 4u, k + 3u);
            let low0 = low(s0);
            let low1 = low(s1);
            let low2 = low(s2);
            let low3 = low(s3);
            let high0 = high(s0);
            let high1 = high(s1);
            let high2 = high(s2);
            let high3 = high(s3);
            c0 += y * transpose(mat4x4f(low0[0], low1[0], low2[0], low3[0]));
            c1 += y * transpose(mat4x4f(low0[1], low1[1], low2[1], low3[1]));
            c2 += y * transpose(mat4x4f(low0[2], low1[2], low2[2], low3[2]));
            c3 += y * transpose(mat4x4f(low0[3], low1[3], low2[3], low3[3]));
            c4 += y * transpose(mat4x4f(high0[0], high1[0], high2[0], high3[0]));
            c5 += y * transpose(mat4x4f(high0[1], high1[1], high2[1], high3[1]));
            c6 += y * transpose(mat4x4f(high0[2], high1[2], high2[2], high3[2]));
            c7 += y * transpose(mat4x4f(high0[3], high1[3], high2[3], high3[3]));
        } else {
            // Each lane loads four steps of every eighth row.
            let r0 = read_a(row + lane, k);
            let r1 = read_a(row + 8u + lane, k);
            let r2 = read_a(row + 16u + lane, k);
            let r3 = read_a(row + 24u + lane, k);
            c0 += y * low(r0);
            c1 += y * high(r0);
            c2 += y * low(r1);
            c3 += y * high(r1);
            c4 += y * low(r2);
            c5 += y * high(r2);
            c6 += y * low(r3);
            c7 += y * high(r3);
        }
    }
    var added = vec4f();
    if (params.add_bias != 0u) {
        added = bias[min(col, params.cols - 1u) / 4u];
    }
    // Stores one tile after the other, only tiles with rows of C. It is a loop because eight copies of the stores would
    // take a driver longer to compile than the rest of the shader.
    let tiles = min(8u, (params.rows - row + 3u) / 4u);
    for (var i = 0u; i < tiles; i++) {
        let odd = (i & 1u) != 0u;
        let upper = either(either(c0, c1, odd), either(c2, c3, odd), (i & 2u) != 0u);
        let lower = either(either(c4, c5, odd), either(c6, c7, odd), (i & 2u) != 0u);
        store_tile(row + 4u * i, col, added, either(upper, lower, i > 3u));
    }
}
