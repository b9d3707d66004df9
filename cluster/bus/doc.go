// Package bus is the log of a cluster, on Kafka. It has the topics that carry
// everything which one node must learn from another, and job's consumer group.
//
// It owns the connections to Kafka, the names and settings of the topics, and how
// records get there and back. It guarantees:
//
//   - A record that was reported as appended is on as many copies as the topic asks
//     for (acks=all), at the reported offset.
//   - The records of one call, and of calls that followed one another, are in that
//     order.
//   - Many callers share batches without waiting for each other's timers.
//   - When Kafka has been away and is back, nothing has to be restarted.
//
// It does not deduplicate. When an answer is lost, the batch is sent again, and its
// records may be in the log twice, with the same bytes. Records carry an id of their
// own (envelope.NewRecordID), by which readers ignore the second copy. The reported
// offset is that of the first copy. The bus does not look into records, and does not
// change or delete topics.
//
// # About kafka-go
//
// The bus makes batches itself, and uses a kafka.Client on a kafka.Transport of its
// own for each topic. It does not use kafka.Writer, whose queue is unbounded and
// which tells offsets only by a callback. It does not use kafka.Reader, which has a
// goroutine and a connection for each of router and job. A Transport that is not told
// its topics asks for the metadata of every topic in Kafka.
//
// The group is a kafka.ConsumerGroup. The group Reader of kafka-go can move positions
// backwards after it has lost a partition.
package bus
