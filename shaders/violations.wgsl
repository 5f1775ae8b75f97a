// Violations of the margin by every anchor, over all negatives: the "sum" form of the hinge triplet (vse-models.md section 1)
//
//   count_a = #{ c != a : margin + S_ac - p_a > 0 }          loss_a = the sum of these costs
//
// The count is the weight with which the anchor's positive is pulled; hinge_sum.wgsl pushes the negatives.
// Blocks and strides as in hardest.wgsl; block by block the counts add up.
//
//   similarity    block of S                      read
//   ids           [pairs] as in hardest.wgsl      read
//   positive      [pairs] p                       read
//   coefficients  [pairs] (scale count, 0)
//   loss          [pairs] sum of the costs
//
// Grid: one workgroup an anchor of the block.

struct Params {
    anchors: u32,
    candidates: u32,
    anchor_stride: u32,
    candidate_stride: u32,
    anchor_offset: u32,
    candidate_offset: u32,
    mask: u32,
    margin: f32,
    scale: f32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> similarity: array<f32>;
@group(0) @binding(2) var<storage, read> ids: array<u32>;
@group(0) @binding(3) var<storage, read> positive: array<f32>;
@group(0) @binding(4) var<storage, read_write> coefficients: array<vec2f>;
@group(0) @binding(5) var<storage, read_write> loss: array<f32>;

const LANES = 64u;
var<workgroup> partial: array<vec2f, LANES>;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
    let anchor = group.x + params.anchor_offset;
    let start = group.x * params.anchor_stride;
    let p = positive[anchor];
    var sum = vec2f(0.0);
    for (var c = lane; c < params.candidates; c += LANES) {
        let candidate = c + params.candidate_offset;
        let cost = params.margin + similarity[start + c * params.candidate_stride] - p;
        var negative = candidate != anchor;
        if (params.mask != 0u) {
            negative = ids[candidate] != ids[anchor];
        }
        if (negative && cost > 0.0) {
            sum += vec2f(1.0, cost);
        }
    }
    partial[lane] = sum;
    workgroupBarrier();
    for (var half = LANES / 2u; half > 0u; half /= 2u) {
        if (lane < half) {
            partial[lane] += partial[lane + half];
        }
        workgroupBarrier();
    }
    if (lane == 0u) {
        var total = vec2f(params.scale * partial[0].x, partial[0].y);
        if (params.candidate_offset != 0u) {
            total += vec2f(coefficients[anchor].x, loss[anchor]);
        }
        coefficients[anchor] = vec2f(total.x, 0.0);
        loss[anchor] = total.y;
    }
}
