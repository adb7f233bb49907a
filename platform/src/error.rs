//! What can be wrong with a device tree.

use core::fmt;

/// Why no machine could be made out in a device tree.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum PlatformError {
    /// The blob is no device tree, or a broken one.
    Malformed,
    /// A node that there must be is missing.
    MissingNode {
        /// What was looked for.
        what: &'static str,
    },
    /// A property is missing or has not the form that the Devicetree Specification gives it.
    Property {
        /// The kind of node.
        node: &'static str,
        /// The property.
        property: &'static str,
        /// What it must be.
        wanted: &'static str,
    },
    /// The machine has something that Sluice cannot drive.
    Unsupported {
        /// What it has.
        what: &'static str,
        /// What Sluice needs in its place.
        needs: &'static str,
    },
    /// There is more of something than Sluice keeps account of.
    TooMany {
        /// Of what.
        what: &'static str,
        /// The most that there may be.
        most: usize,
    },
}

impl fmt::Display for PlatformError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Malformed => f.write_str("x0 does not point to a valid device tree"),
            Self::MissingNode { what } => write!(f, "the device tree has no {what}"),
            Self::Property { node, property, wanted } => {
                write!(f, "the device tree's {node} needs a property '{property}': {wanted}")
            }
            Self::Unsupported { what, needs } => write!(f, "this machine has {what}; {needs}"),
            Self::TooMany { what, most } => {
                write!(f, "the device tree lists more than {most} {what}")
            }
        }
    }
}

impl core::error::Error for PlatformError {}
