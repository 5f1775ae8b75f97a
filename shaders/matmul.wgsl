// Matrix product, tiled through workgroup memory: C = op(A) op(B) (+ bias) (+ C)
//
// A workgroup owns a tile of 4*LANES_Y rows x 4*LANES_X columns of C, an invocation 4 x 4 of them. For every STEP of
// the inner dimension the workgroup brings the two strips in once, as 4 x 4 blocks turned so that a row of the tile
// memory holds one inner step, and every invocation then reads two vec4s per 16 products.
//
//   a     [rows, inner], or [inner, rows] when A_TRANSPOSED        read
//   b     [inner, cols], or [cols, inner] when B_TRANSPOSED        read
//   bias  [cols], added to every row when add_bias                 read
//   c     [rows, cols], overwritten, or added to when ACCUMULATE   read, write
//
// Row strides are in vec4; stored rows are padded to whole vec4s and the padding is zero, in C as well.
// Grid: x over columns / (4 * LANES_X), y over rows / (4 * LANES_Y).

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
const LANES_X = 16u;
const LANES_Y = 16u;
const STEP = 16u;
const LANES = LANES_X * LANES_Y;
const A_BLOCKS = LANES_Y * STEP / 4u;
const B_BLOCKS = LANES_X * STEP / 4u;

var<workgroup> a_tile: array<vec4f, STEP * LANES_Y>;  // [inner step][row / 4]
var<workgroup> b_tile: array<vec4f, STEP * LANES_X>;  // [inner step][column / 4]

// Four stored rows from `row`, the vec4 at column `col4` of each. Rows and columns past the end repeat the last: the
// operands may be parts of larger matrices, whose rows go on.
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

// Column s of the result: op(A)[row .. row+4, k + s], zero past the inner dimension.
fn block_a(row: u32, k: u32) -> mat4x4f {
    var block: mat4x4f;
    if (A_TRANSPOSED) {
        block = read_a(k, params.inner - 1u, row / 4u);
    } else {
        block = transpose(read_a(row, params.rows - 1u, k / 4u));
    }
    let inside = select(vec4f(0.0), vec4f(1.0), vec4u(k, k + 1u, k + 2u, k + 3u) < vec4u(params.inner));
    return mat4x4f(block[0] * inside.x, block[1] * inside.y, block[2] * inside.z, block[3] * inside.w);
}

// Column s of the result: op(B)[k + s, col .. col+4].
fn block_b(k: u32, col: u32) -> mat4x4f {
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

@compute @workgroup_size(LANES_X, LANES_Y)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_id) lane: vec3u,
        @builtin(local_invocation_index) index: u32) {
    let row0 = group.y * LANES_Y * 4u;
    let col0 = group.x * LANES_X * 4u;
    var sum = mat4x4f();  // column r: row r of the outputs
    for (var k0 = 0u; k0 < params.inner; k0 += STEP) {
        for (var block = index; block < A_BLOCKS; block += LANES) {
            let at = block % LANES_Y;
            let step = block / LANES_Y * 4u;
            let v = block_a(row0 + at * 4u, k0 + step);
            a_tile[step * LANES_Y + at] = v[0];
            a_tile[(step + 1u) * LANES_Y + at] = v[1];
            a_tile[(step + 2u) * LANES_Y + at] = v[2];
            a_tile[(step + 3u) * LANES_Y + at] = v[3];
        }
        for (var block = index; block < B_BLOCKS; block += LANES) {
            let at = block % LANES_X;
            let step = block / LANES_X * 4u;
            let v = block_b(k0 + step, col0 + at * 4u);
            b_tile[step * LANES_X + at] = v[0];
            b_tile[(step + 1u) * LANES_X + at] = v[1];
            b_tile[(step + 2u) * LANES_X + at] = v[2];
            b_tile[(step + 3u) * LANES_X + at] = v[3];
        }
        workgroupBarrier();
        for (var k = 0u; k < STEP; k += 1u) {
            let x = a_tile[k * LANES_Y + lane.y];
            let y = b_tile[k * LANES_X + lane.x];
            sum += mat4x4f(y * x.x, y * x.y, y * x.z, y * x.w);
        }
        workgroupBarrier();
    }
    let row = row0 + lane.y * 4u;
    let col = col0 + lane.x * 4u;
    store(row, col, sum[0]);
    store(row + 1u, col, sum[1]);
    store(row + 2u, col, sum[2]);
    store(row + 3u, col, sum[3]);
}
