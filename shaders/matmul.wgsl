// Matrix product, tiled through workgroup memory: C = op(A) op(B) (+ bias) (+ C)
//
// A workgroup computes a tile of 4*LANES_Y rows x 4*LANES_X columns of C; each invocation computes 4 x 4 of them. For
// every STEP of the inner dimension, the workgroup loads one strip of A and one of B into workgroup memory. It stores
// them as transposed 4 x 4 blocks, so that one row of the tile memory holds one inner step. Each invocation then reads
// two vec4s for 16 products. An invocation loads at most one block, and starts the load of the next one before it
// computes.
//
// If C has few tiles, a GPU would be idle. Then the workgroup has SLICES times the invocations. Each slice has its own
// tile memory and its own part of the inner dimension, a multiple of 16 steps for every STEP. At the end the sums of
// the slices are added in order.
//
//   a     [rows, inner], or [inner, rows] when A_TRANSPOSED        read
//   b     [inner, cols], or [cols, inner] when B_TRANSPOSED        read
//   bias  [cols], added to every row when add_bias is set          read
//   c     [rows, cols], overwritten, or added to when ACCUMULATE   read, write
//
// Row strides are in vec4s. Stored rows are padded to whole vec4s, and the padding is zero, in C as well.
// Grid: x covers columns / (4 * LANES_X), y covers rows / (4 * LANES_Y).

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
const SLICES = 1u;
const LANES = LANES_X * LANES_Y;
const A_BLOCKS = LANES_Y * STEP / 4u;
const BLOCKS = A_BLOCKS + LANES_X * STEP / 4u;  // at most LANES
const B_TILE = STEP * LANES_Y;                  // position of B's strip, behind A's
const TILE = B_TILE + STEP * LANES_X;

// For each slice: A's strip as [inner step][row / 4], then B's strip as [inner step][column / 4]. At the end, with
// several slices: their sums as [slice][row of the 4 x 4][lane].
var<workgroup> tile: array<vec4f, max(TILE, select(0u, 4u * LANES, SLICES > 1u)) * SLICES>;

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

// Column s of the result is op(A)[row .. row+4, k + s], zero past the inner dimension.
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

// Column s of the result is op(B)[k + s, col .. col+4].
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

// Loads one block of the strips that start at inner step k0. Blocks of A come first, then blocks of B.
fn fetch(block: u32, row0: u32, col0: u32, k0: u32) -> mat4x4f {
    if (block < A_BLOCKS) {
        return block_a(row0 + block % LANES_Y * 4u, k0 + block / LANES_Y * 4u);
    }
    let b_block = block - A_BLOCKS;
    return block_b(k0 + b_block / LANES_X * 4u, col0 + b_block % LANES_X * 4u);
}

// Position in the tile memory of the block's first column, and the distance between its columns.
fn place(block: u32) -> vec2u {
    if (block < A_BLOCKS) {
        return vec2u(block / LANES_Y * 4u * LANES_Y + block % LANES_Y, LANES_Y);
    }
    let b_block = block - A_BLOCKS;
    return vec2u(B_TILE + b_block / LANES_X * 4u * LANES_X + b_block % LANES_X, LANES_X);
}

@compute @workgroup_size(LANES_X, LANES_Y, SLICES)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_id) lane: vec3u,
        @builtin(local_invocation_index) index: u32) {
    let row0 = group.y * LANES_Y * 4u;
    let col0 = group.x * LANES_X * 4u;
    let block = index % LANES;
    let brings = block < BLOCKS;
    let mine = TILE * lane.z;
    let at = place(block) + vec2u(mine, 0u);
    let part = (params.inner + 16u * SLICES - 1u) / (16u * SLICES) * 16u;
    let start = part * lane.z;
    var next: mat4x4f;
    if (brings) {
        next = fetch(block, row0, col0, start);
    }
    var sum = mat4x4f();  // column r holds row r of the outputs
    for (var k0 = 0u; k0 < part; k0 += STEP) {
        if (brings) {
            tile[at.x] = next[0];
            tile[at.x + at.y] = next[1];
            tile[at.x + 2u * at.y] = next[2];
            tile[at.x + 3u * at.y] = next[3];
            next = fetch(block, row0, col0, start + k0 + STEP);
        }
        workgroupBarrier();
        for (var k = 0u; k < STEP; k += 1u) {
            let x = tile[mine + k * LANES_Y + lane.y];
            let y = tile[mine + B_TILE + k * LANES_X + lane.x];
            sum += mat4x4f(y * x.x, y * x.y, y * x.z, y * x.w);
        }
        workgroupBarrier();
    }
    if (SLICES == 1u) {
        let row = row0 + lane.y * 4u;
        let col = col0 + lane.x * 4u;
        store(row, col, sum[0]);
        store(row + 1u, col, sum[1]);
        store(row + 2u, col, sum[2]);
        store(row + 3u, col, sum[3]);
    } else {
        let sums = lane.z * 4u * LANES + block;
        tile[sums] = sum[0];
        tile[sums + LANES] = sum[1];
        tile[sums + 2u * LANES] = sum[2];
        tile[sums + 3u * LANES] = sum[3];
        workgroupBarrier();
        for (var k = index; k < 4u * LANES; k += SLICES * LANES) {
            var total = tile[k];
            for (var slice = 1u; slice < SLICES; slice += 1u) {
                total += tile[slice * 4u * LANES + k];
            }
            let owner = k % LANES;
            store(row0 + owner / LANES_X * 4u + k / LANES, col0 + owner % LANES_X * 4u, total);
        }
    }
}
