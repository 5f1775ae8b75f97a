//! The order in which the sums of slices are added: one binary tree over the slices, whichever rank holds them.
//!
//! ```text
//! level 2          s0+..+s3
//! level 1     s0+s1      s2+s3        s4
//! level 0    s0    s1   s2    s3      s4
//! ```

/// A node of the tree: its level, counted from the slices, and its number on this level.
pub(crate) type Node = (u32, usize);

/// Sums that are being added. `T` holds the sum of a node.
pub(crate) struct Tree<T> {
    slices: usize,
    nodes: Vec<(Node, T)>,
}

impl<T> Tree<T> {
    /// A tree over so many slices, without sums.
    pub fn new(slices: usize) -> Self {
        Self { slices, nodes: Vec::new() }
    }

    /// Takes the sum of a node. Nodes come in the order of their slices. While a node and its left neighbour have the
    /// same parent, `add` adds the second to the first, which becomes the parent's.
    pub fn push<E>(
        &mut self,
        node: Node,
        sum: T,
        mut add: impl FnMut(&mut T, T) -> Result<(), E>,
    ) -> Result<(), E> {
        self.nodes.push((node, sum));
        while let Some(((level, at), sum)) = self.nodes.pop() {
            let width = self.slices.div_ceil(1 << level);
            let left = self.nodes.pop_if(|(left, _)| at % 2 == 1 && *left == (level, at - 1));
            if let Some((_, mut left)) = left {
                add(&mut left, sum)?;
                self.nodes.push(((level + 1, at / 2), left));
            } else if width > 1 && at % 2 == 0 && at + 1 == width {
                // It has no right neighbour.
                self.nodes.push(((level + 1, at / 2), sum));
            } else {
                self.nodes.push(((level, at), sum));
                break;
            }
        }
        Ok(())
    }

    /// The sums that have no neighbour to be added to: one if all slices came.
    pub fn roots(self) -> Vec<(Node, T)> {
        self.nodes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::Slices;

    /// Writes down what is added to what.
    fn add(left: &mut String, right: String) -> Result<(), ()> {
        *left = format!("({left}{right})");
        Ok(())
    }

    fn whole(slices: usize, ranks: usize) -> Vec<(Node, String)> {
        let divided = Slices::new(16 * slices, slices);
        let mut all = Tree::new(slices);
        for rank in 0..ranks {
            let mut own = Tree::new(slices);
            for slice in divided.of_rank(rank, ranks) {
                own.push((0, slice), slice.to_string(), add).unwrap();
            }
            own.roots().into_iter().for_each(|(node, sum)| all.push(node, sum, add).unwrap());
        }
        all.roots()
    }

    #[test]
    fn the_order_of_additions_does_not_depend_on_the_ranks() {
        assert_eq!(whole(5, 1), [((3, 0), "(((01)(23))4)".to_string())]);
        assert_eq!(whole(8, 1), [((3, 0), "(((01)(23))((45)(67)))".to_string())]);
        for slices in 1..=16 {
            for ranks in 1..=slices {
                assert_eq!(whole(slices, ranks), whole(slices, 1), "{slices} slices on {ranks} ranks");
            }
        }
    }
}
