//! Writes the seeds into corpus/envelope: `cargo run --bin seeds`, in this folder.

#[path = "envelope.rs"]
#[allow(dead_code)]
mod envelope;
#[path = "seeds.rs"]
mod seeds;

fn main() -> std::io::Result<()> {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus/envelope");
    for (name, bytes) in seeds::seeds() {
        std::fs::write(folder.join(name), bytes)?;
    }
    Ok(())
}
