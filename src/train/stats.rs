//! What a step leaves for its caller.

/// The statistics of one step.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct StepStats {
    /// The value of the objective: a sum over the batch for GOAL and hinge, divided by the number of pairs for InfoNCE and
    /// SigLIP.
    pub loss: f32,
    /// The mean positive similarity.
    pub positive: f32,
    /// The mean similarity of the hardest negatives, over both directions.
    pub hardest: f32,
    /// The norm of the gradient over all parameters, before clipping.
    pub gradient_norm: f32,
    /// Whether the gradient was clipped.
    pub clipped: bool,
}
