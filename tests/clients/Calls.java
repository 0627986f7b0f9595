// Java's own HttpClient: a call, then a stream. Nothing is set but its environment.
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse.BodyHandlers;

public class Calls {
    public static void main(String[] arguments) throws Exception {
        HttpClient client = HttpClient.newHttpClient();
        String answer = client.send(request(""), BodyHandlers.ofString()).body();
        System.out.println("answer: " + answer.replaceAll(".*\"seen\":\"(.*)\".*", "$1"));
        client.send(request("?stream"), BodyHandlers.ofLines()).body().forEach(System.out::println);
        System.out.println("environment: " + System.getenv());
    }

    static HttpRequest request(String query) {
        return HttpRequest.newBuilder(URI.create("https://api.openai.com/v1/models" + query))
            .header("Authorization", "Bearer " + System.getenv("OPENAI_API_KEY"))
            .build();
    }
}
