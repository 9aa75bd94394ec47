//! What the doubles promise, asked with the real AWS SDK clients.

#[cfg(test)]
mod data;
#[cfg(test)]
mod dynamodb;
#[cfg(test)]
mod faults;
#[cfg(test)]
mod kms;
#[cfg(test)]
mod secrets;
#[cfg(test)]
mod ses;
#[cfg(test)]
mod sqs;
#[cfg(test)]
mod world;
