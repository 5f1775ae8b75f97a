//! Parameter blocks.

/// Declares a kernel's parameter block and lists its members, so that a test can compare them with the shader's.
///
/// - `block` puts the six members in front that all kernels on a [`super::Block`] share, and `on(&Block)` fills them.
/// - `weights` puts the members at the end that the weights of triplets need, and `weighing(&WeightParams)` fills them.
/// - A name in front declares a block of that name, for a second block in the file.
macro_rules! params {
    (block weights $($field:ident: $ty:ident),* $(,)?) => {
        params!(
            weights anchors: u32, candidates: u32, anchor_stride: u32, candidate_stride: u32,
            anchor_offset: u32, candidate_offset: u32, $($field: $ty),*
        );
        params!(on);
    };
    (block $($field:ident: $ty:ident),* $(,)?) => {
        params!(
            anchors: u32, candidates: u32, anchor_stride: u32, candidate_stride: u32,
            anchor_offset: u32, candidate_offset: u32, $($field: $ty),*
        );
        params!(on);
    };
    (weights $($field:ident: $ty:ident),* $(,)?) => {
        params!(
            $($field: $ty,)* triplet: u32, pair: u32, loss: u32, hinge: u32, exclude_own: u32, positive: u32, tau: f32, alpha: f32,
            beta: f32, lambda: f32, circle: f32, margin: f32, scale: f32, custom_params_0: f32, custom_params_1: f32, custom_params_2: f32,
            custom_params_3: f32, custom_params_4: f32, custom_params_5: f32, custom_params_6: f32, custom_params_7: f32
        );
        impl Params {
            fn weighing(self, weights: &$crate::kernels::WeightParams) -> Self {
                let own = |k: usize| {
                    let own = weights.custom.as_ref().and_then(|custom| custom.parameters().get(k));
                    own.map_or(0.0, |(_, value)| *value)
                };
                Self {
                    triplet: weights.triplet as u32,
                    pair: weights.pair as u32,
                    loss: weights.loss as u32,
                    hinge: weights.margin.is_some().into(),
                    exclude_own: weights.exclude_own.into(),
                    positive: weights.positive as u32,
                    tau: weights.tau,
                    alpha: weights.alpha,
                    beta: weights.beta,
                    lambda: weights.lambda,
                    circle: weights.circle,
                    margin: weights.margin.unwrap_or(0.0),
                    scale: weights.scale,
                    custom_params_0: own(0),
                    custom_params_1: own(1),
                    custom_params_2: own(2),
                    custom_params_3: own(3),
                    custom_params_4: own(4),
                    custom_params_5: own(5),
                    custom_params_6: own(6),
                    custom_params_7: own(7),
                    ..self
                }
            }
        }
    };
    (on) => {
        impl Params {
            fn on(block: &$crate::kernels::Block) -> Self {
                Self {
                    anchors: block.anchors as u32,
                    candidates: block.candidates as u32,
                    anchor_stride: block.anchor_stride as u32,
                    candidate_stride: block.candidate_stride as u32,
                    anchor_offset: block.anchor_offset as u32,
                    candidate_offset: block.candidate_offset as u32,
                    ..Default::default()
                }
            }
        }
    };
    ($($field:ident: $ty:ident),* $(,)?) => {
        params!(Params { $($field: $ty),* });
    };
    ($name:ident { $($field:ident: $ty:ident),* $(,)? }) => {
        #[derive(encase::ShaderType, Default)]
        pub(super) struct $name { $(pub $field: $ty),* }
        impl $name {
            pub const MEMBERS: &'static [(&'static str, &'static str)] = &[$((stringify!($field), stringify!($ty))),*];
        }
    };
}
pub(crate) use params;
