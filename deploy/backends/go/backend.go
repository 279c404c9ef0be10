// A chat backend: answers every chat request of a game, and passes it on to the user that it names.
package main

import (
	"cmp"
	"context"
	"fmt"
	"log"
	"os"
	"os/signal"
	"syscall"
	"time"

	"backend/chat"

	"github.com/redis/go-redis/v9"
	"google.golang.org/protobuf/proto"
)

func answer(ctx context.Context, broker *redis.Client, payload string) error {
	request := &chat.ChatRequest{}
	if err := proto.Unmarshal([]byte(payload), request); err != nil {
		return fmt.Errorf("not a ChatRequest: %w", err)
	}
	sender, now := request.GetBase().GetUserId(), time.Now()
	response := &chat.ChatResponse{
		Base: request.GetBase(), Success: true, MessageId: now.UnixMicro(), Timestamp: now.UnixMilli(),
		// An answer for the session that asked. Without a session id, it goes to every session of the user.
		TargetUserId: sender, TargetSessionId: request.GetMeta().GetSessionId(),
		// It has the trace of the request, to which the deliveries belong then.
		Meta: request.GetMeta(),
	}
	if err := publish(ctx, broker, sender, response); err != nil || request.ReceiverId <= 0 {
		return err
	}
	return publish(ctx, broker, request.ReceiverId, &chat.MessageBroadcast{
		MessageId: now.UnixMicro(), SenderId: sender, SenderName: fmt.Sprintf("user %d", sender),
		ChannelId: request.ChannelId, Content: request.Content, Timestamp: now.UnixMilli(), Type: request.Type,
		TargetUserId: request.ReceiverId, Meta: request.GetMeta(),
	})
}

func publish(ctx context.Context, broker *redis.Client, user int32, message proto.Message) error {
	payload, err := proto.Marshal(message)
	if err != nil {
		return err
	}
	return broker.Publish(ctx, fmt.Sprintf("broadcast:user:%d", user), payload).Err()
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	options, err := redis.ParseURL(cmp.Or(os.Getenv("REDIS_URL"), "redis://127.0.0.1:6379"))
	if err != nil {
		log.Fatal(err)
	}
	broker, topic := redis.NewClient(options), "game:request:"+cmp.Or(os.Getenv("GAME"), "mmo")
	// The subscription pings the connection, connects again when it breaks, and subscribes again.
	requests := broker.Subscribe(ctx, topic).Channel()
	log.Printf("serving %s", topic)
	for {
		select {
		case <-ctx.Done():
			return
		case message := <-requests:
			if err := answer(ctx, broker, message.Payload); err != nil {
				log.Print(err)
			}
		}
	}
}
