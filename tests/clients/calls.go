// Go's net/http: a call, then a stream. Nothing is set but its environment.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
)

func get(query string) io.ReadCloser {
	request, err := http.NewRequest("GET", "https://api.openai.com/v1/models"+query, nil)
	check(err)
	request.Header.Set("Authorization", "Bearer "+os.Getenv("OPENAI_API_KEY"))
	reply, err := http.DefaultClient.Do(request)
	check(err)
	return reply.Body
}

func check(err error) {
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}

func main() {
	var models struct{ Seen string }
	check(json.NewDecoder(get("")).Decode(&models))
	fmt.Println("answer:", models.Seen)
	lines := bufio.NewScanner(get("?stream"))
	for lines.Scan() {
		fmt.Println(lines.Text())
	}
	check(lines.Err())
	fmt.Println("environment:", os.Environ())
}
