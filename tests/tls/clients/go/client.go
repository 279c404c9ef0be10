// A client with the module github.com/coder/websocket: client URL [AUTHORITY]
//
// Trusts only the certificate authority in the PEM file AUTHORITY, or else the authorities of the system. Prints the
// header of the welcome, the reply to a heartbeat, and the close code, each on a line. Exits with 1 and the reason if
// the connection fails.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"os"
	"time"

	"github.com/coder/websocket"
)

var heartbeat = []byte{0, 0, 0, 1, 3, 0, 0, 0, 'b', 'e', 'a', 't'}

func main() {
	if err := talk(os.Args[1], os.Args[2:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func talk(url string, authority []string) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	config := &tls.Config{}
	if len(authority) > 0 {
		pem, err := os.ReadFile(authority[0])
		if err != nil {
			return err
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return errors.New("the file of the authority has no certificate")
		}
	}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: config}}
	conn, _, err := websocket.Dial(ctx, url, &websocket.DialOptions{HTTPClient: client})
	if err != nil {
		return err
	}
	defer conn.CloseNow()
	_, welcome, err := conn.Read(ctx)
	if err != nil {
		return err
	}
	fmt.Printf("welcome %x\n", welcome[:8])
	if err := conn.Write(ctx, websocket.MessageBinary, heartbeat); err != nil {
		return err
	}
	_, reply, err := conn.Read(ctx)
	if err != nil {
		return err
	}
	fmt.Printf("reply %x\n", reply)
	// An error means that the gateway answers with another code, or not at all.
	if err := conn.Close(websocket.StatusNormalClosure, ""); err != nil {
		return err
	}
	fmt.Println("closed 1000")
	return nil
}
