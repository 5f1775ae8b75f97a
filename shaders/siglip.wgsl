// Field of the sigmoid loss of SigLIP; overwrites S
//
//   z = s / t + b        v_ij = -z_ij where i and j belong together, else z_ij
//   L = sum_ij log(1 + e^v_ij) / B        a_ij = d log(1 + e^v_ij) / dz_ij = -sigma(-z) where they do, else sigma(z)
//   A_ij = scale a_ij / (B t)        dt_i = - scale sum_j (a_ij s_ij) / (B t^2)        db_i = scale sum_j a_ij / B
//
// Reference: docs/math.md, "SigLIP"; Zhai et al. (2023), algorithm 1.
//
// Only e^(-|v|) occurs, so nothing overflows, and a small loss and its gradient keep their digits.
//
//   ids               [pairs] image of each pair                                   read
//   logits            t at 0, b at BIAS                                            read
//   field             [rows, pairs] S of rows row_offset..                         replaced by A
//   dt, db            [pairs, 4] column 0: parts of the gradients at t and at b    rows of the block overwritten
//   loss_it, loss_ti  [pairs] the loss of a row, and 0                             rows of the block overwritten
//
// Grid: one workgroup per row of the block.

struct Params {
    rows: u32,
    pairs: u32,
    stride: u32,       // floats in a row of field
    row_offset: u32,
    same_image: u32,   // 0 negatives, 1 positives, 2 left out
    scale: f32,
    images: u32,       // as in infonce.wgsl
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> ids: array<u32>;
@group(0) @binding(2) var<storage, read> logits: array<f32>;
@group(0) @binding(3) var<storage, read_write> field: array<f32>;
@group(0) @binding(4) var<storage, read_write> dt: array<vec4f>;
@group(0) @binding(5) var<storage, read_write> db: array<vec4f>;
@group(0) @binding(6) var<storage, read_write> loss_it: array<f32>;
@group(0) @binding(7) var<storage, read_write> loss_ti: array<f32>;

const LANES = 64u;
const BIAS = 64u;           // where b stands in logits
const LEFT_OUT = -3.0e38;   // similarities below are left out
var<workgroup> partial: array<vec3f, LANES>;

fn role(anchor: u32, candidate: u32) -> u32 {
    if (candidate == anchor) {
        return 1u;
    }
    if (params.same_image == 0u) {
        return 0u;
    }
    return select(0u, params.same_image, ids[candidate] == ids[anchor]);
}

// log(1 + u) for u >= 0. A series near 0 keeps the digits that 1 + u would lose.
fn log_one_plus(u: f32) -> f32 {
    let w = u / (2.0 + u);
    let series = 2.0 * w * (1.0 + w * w * (1.0 / 3.0 + w * w * (1.0 / 5.0 + w * w * (1.0 / 7.0 + w * w / 9.0))));
    return select(log(1.0 + u), series, u < 0.5);
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
    let i = group.x + params.row_offset;
    let start = group.x * params.stride;
    let rate = 1.0 / logits[0];
    let bias = logits[BIAS];
    let share = params.scale / f32(params.pairs);
    var sum = vec3f(0.0);   // of the loss, of a s, of a
    for (var j = lane; j < params.pairs; j += LANES) {
        let s = field[start + j];
        let part = role(i, j);
        var a = 0.0;
        if (part != 2u && s >= LEFT_OUT) {
            let z = rate * s + bias;
            let v = select(z, -z, part == 1u);
            let u = exp(max(-abs(v), -87.0));
            let sigma = select(u, 1.0, v > 0.0) / (1.0 + u);
            a = select(sigma, -sigma, part == 1u);
            sum += vec3f(max(v, 0.0) + log_one_plus(u), a * s, a);
        }
        field[start + j] = share * rate * a;
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
        let total = partial[0];
        dt[i] = vec4f(-share * rate * rate * total.y, 0.0, 0.0, 0.0);
        db[i] = vec4f(share * total.z, 0.0, 0.0, 0.0);
        loss_it[i] = total.x / f32(params.pairs);
        for (var t = i; t < params.pairs; t += params.images) {
            loss_ti[t] = 0.0;
        }
    }
}
