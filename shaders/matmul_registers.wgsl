// Matrix product, registers only: C = op(A) op(B) (+ bias) (+ C)
//
// For adapters on which a barrier is slow: software rasterisers implement it as a coroutine switch. Each invocation
// computes 8 x 8 outputs in four 4 x 4 accumulators, and takes four inner steps at a time. Every load is a vec4.
//
//   a     [rows, inner], or [inner, rows] when A_TRANSPOSED        read
//   b     [inner, cols], or [cols, inner] when B_TRANSPOSED        read
//   bias  [cols], added to every row when add_bias is set          read
//   c     [rows, cols], overwritten, or added to when ACCUMULATE   read, write
//
// Row strides are in vec4s. Stored rows are padded to whole vec4s, and the padding is zero, in C as well.
// Grid: x covers columns / (8 * LANES_X), y covers rows / (8 * LANES_Y).

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
@group(0) @binding(1) var<storage, read> a: array<vec4f>;
@group(0) @binding(2) var<storage, read> b: array<vec4f>;
@group(0) @binding(3) var<storage, read> bias: array<vec4f>;
@group(0) @binding(4) var<storage, read_write> c: array<vec4f>;

const A_TRANSPOSED = false;
const B_TRANSPOSED = true;
const ACCUMULATE = false;
const LANES_X = 8u;
const LANES_Y = 8u;

// The vec4 at column `col4` of four stored rows from `row` on. Rows and columns past the end repeat the last one: an
// operand may be a part of a larger matrix, with other data behind it.
fn read_a(row: u32, last: u32, col4: u32) -> mat4x4f {
    let s = params.a_stride;
    let k = min(col4, (select(params.inner, params.rows, A_TRANSPOSED) - 1u) / 4u);
    return mat4x4f(a[min(row, last) * s + k], a[min(row + 1u, last) * s + k],
                   a[min(row + 2u, last) * s + k], a[min(row + 3u, last) * s + k]);
}

fn read_b(row: u32, last: u32, col4: u32) -> mat4x4f {
    let s = params.b_stride;
    let k = min(col4, (select(params.cols, params.inner, B_TRANSPOSED) - 1u) / 4u);
    return mat4x4f(b[min(row, last) * s + k], b[min(row + 1u, last) * s + k],
                   b[min(row + 2u, last) * s + k], b[min(row + 3u, last) * s + k]);
}

// Column r of the result is op(A)[row + r, k .. k+4]. Steps past the inner dimension are zero, through A's padding or
// through this function. So the values that B repeats there add nothing.
fn tile_a(row: u32, k: u32) -> mat4x4f {
    if (A_TRANSPOSED) {
        let steps = vec4u(k, k + 1u, k + 2u, k + 3u);
        let inside = select(vec4f(0.0), vec4f(1.0), steps < vec4u(params.inner));
        let t = transpose(read_a(k, params.inner - 1u, row / 4u));
        return mat4x4f(t[0] * inside, t[1] * inside, t[2] * inside, t[3] * inside);
    }
    return read_a(row, params.rows - 1u, k / 4u);
}

// Column s of the result is op(B)[k + s, col .. col+4].
fn tile_b(k: u32, col: u32) -> mat4x4f {
    if (B_TRANSPOSED) {
        return transpose(read_b(col, params.cols - 1u, k / 4u));
    }
    return read_b(k, params.inner - 1u, col / 4u);
}

fn store(row: u32, col: u32, product: vec4f) {
    if (row >= params.rows || col >= params.cols) {
        return;
    }
    var value = product;
    if (params.add_bias != 0u) {
        value += bias[col / 4u];
    }
    let inside = vec4u(col, col + 1u, col + 2u, col + 3u) < vec4u(params.cols);
    value = select(vec4f(0.0), value, inside);
    let at = row * params.c_stride + col / 4u;
    if (ACCUMULATE) {
        value += c[at];
    }
    c[at] = value;
}

fn store_tile(row: u32, col: u32, tile: mat4x4f) {
    store(row, col, tile[0]);
    store(row + 1u, col, tile[1]);
    store(row + 2u, col, tile[2]);
    store(row + 3u, col, tile[3]);
}

@compute @workgroup_size(LANES_X, LANES_Y)
fn main(@builtin(global_invocation_id) id: vec3u) {
    let col = id.x * 8u;
    let row = id.y * 8u;
    if (row >= params.rows || col >= params.cols) {
        return;
    }
    var c00 = mat4x4f();
    var c01 = mat4x4f();
    var c10 = mat4x4f();
    var c11 = mat4x4f();
    for (var k = 0u; k < params.inner; k += 4u) {
        let a0 = tile_a(row, k);
        let a1 = tile_a(row + 4u, k);
        let b0 = tile_b(k, col);
        let b1 = tile_b(k, col + 4u);
        c00 += b0 * a0;
        c01 += b1 * a0;
        c10 += b0 * a1;
        c11 += b1 * a1;
    }
    store_tile(row, col, c00);
    store_tile(row, col + 4u, c01);
    store_tile(row + 4u, col, c10);
    store_tile(row + 4u, col + 4u, c11);
}
