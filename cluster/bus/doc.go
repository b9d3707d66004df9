// Package bus is the log of a cluster, on Kafka: the topics through which
// everything goes that one node must learn from another, and job's consumer
// group.
//
// It owns the connections to Kafka, the topics' names and settings, and how
// records get there and back. It guarantees that a record which was reported
// as appended is on as many copies as the topic asks for (acks=all), at the
// offset that was reported; that the records of one call, and of calls that
// followed one another, stand in that order; that many callers share batches
// without waiting for each other's timers; and that a Kafka that is away and
// comes back needs no restart of anything.
//
// It does not deduplicate: when an answer is lost the batch is sent again, and
// its records may stand in the log twice, with the same bytes. Records carry
// an id of their own (envelope.NewRecordID) by which readers void the second;
// the offset that is reported is the first one's. It does not look into records, and does not change or delete topics.
//
// # About kafka-go
//
// The bus batches by itself and uses kafka.Client on a kafka.Transport for
// each topic, not kafka.Writer and kafka.Reader: the Writer's queue is
// unbounded and tells offsets only by a callback, a Reader is a goroutine and a
// connection for each of router and job. A Transport for each topic, since
// one asks for the metadata of every topic in Kafka unless it is told which.
// The group is a kafka.ConsumerGroup: the group Reader of kafka-go can move
// positions backwards after it lost a partition.
package bus
