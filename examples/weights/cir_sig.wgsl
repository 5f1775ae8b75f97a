// The built-in cir:sig, as a file: the circle loss's triplet weight, the binomial deviance's pair weights.
//
//   wgoal train --objective custom --weights examples/weights/cir_sig.wgsl --param beta=20
//
//   T = sigma(tau ((1 - p)^2 + n^2 - 2 m^2))      P+ = sigma(-alpha (p - lambda))      P- = sigma(beta (n - lambda))

override tau: f32 = 1.0;
override alpha: f32 = 2.0;
override beta: f32 = 10.0;
override lambda: f32 = 0.5;
override circle: f32 = 0.5;   // the circle margin m

// e^z kept among the normal numbers.
fn bounded_exp(z: f32) -> f32 {
    return exp(clamp(z, -87.0, 87.0));
}

fn sigma(z: f32) -> f32 {
    return 1.0 / (1.0 + bounded_exp(-z));
}

fn triplet_weight(p: f32, n: f32) -> f32 {
    return sigma(tau * ((1.0 - p) * (1.0 - p) + n * n - 2.0 * circle * circle));
}

fn pair_weights(p: f32, n: f32) -> vec2f {
    let zp = alpha * (p - lambda);
    let zn = -beta * (n - lambda);
    return vec2f(1.0 / (bounded_exp(zp) + 1.0), 1.0 / (bounded_exp(zn) + 1.0));
}
