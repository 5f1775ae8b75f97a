// Field of the hinge triplet over all negatives, off the diagonal, in the place of S          (vse-models.md section 1)
//
//   A_ij = scale ( [margin + S_ij - p_i > 0]  +  [margin + S_ij - p_j > 0] ),  0 where i and j are no negatives
//
// The diagonal is left to compose.wgsl, with the counts of violations.wgsl.
//
//   ids       [pairs] as in hardest.wgsl                              read
//   positive  [pairs] p                                               read
//   field     [rows, pairs] holds S of rows row_offset.., becomes A
//
// Grid: x over columns / LANES, y rows of the block.

struct Params {
    rows: u32,
    pairs: u32,
    stride: u32,       // floats in a row of field
    row_offset: u32,
    mask: u32,
    margin: f32,
    scale: f32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> ids: array<u32>;
@group(0) @binding(2) var<storage, read> positive: array<f32>;
@group(0) @binding(3) var<storage, read_write> field: array<f32>;

const LANES = 64u;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(global_invocation_id) id: vec3u) {
    let i = group.y + params.row_offset;
    let j = id.x;
    if (j >= params.pairs) {
        return;
    }
    let at = group.y * params.stride + j;
    let s = field[at];
    var negative = i != j;
    if (params.mask != 0u) {
        negative = ids[i] != ids[j];
    }
    var a = 0.0;
    if (negative && params.margin + s - positive[i] > 0.0) {
        a += params.scale;
    }
    if (negative && params.margin + s - positive[j] > 0.0) {
        a += params.scale;
    }
    field[at] = a;
}
