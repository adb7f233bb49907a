//! Links the stub as a flat, relocatable image.

fn main() {
    println!("cargo::rerun-if-changed=image.ld");
    let folder = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
    for argument in [
        &format!("-T{folder}/image.ld"),
        "-pie",
        "--no-dynamic-linker",
        "-znotext",
        "-zmax-page-size=4096",
        "-znorelro",
    ] {
        println!("cargo::rustc-link-arg-bins={argument}");
    }
}
