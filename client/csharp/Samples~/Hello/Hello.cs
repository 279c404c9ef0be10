using Gateway.Client;
using UnityEngine;

public class Hello : MonoBehaviour
{
    public string url = "ws://127.0.0.1:8080/ws";
    private Session session;

    void Start()
    {
        session = Session.Connect(url);
        session.Push += push =>
        {
            var message = push.Route == Route.Chat ? ChatMessage.Decode(push.Payload) : null;
            if (message is ChatBroadcast heard) Debug.Log(heard.SenderName + ": " + heard.Content);
        };
        session.Closed += error => Debug.Log(error.Message);
        var hello = new ChatRequest { GameId = "mmo", UserId = 1, ReceiverId = 2 };
        hello.Content = "hello";
        session.Send(Route.Chat, hello.Encode());
    }

    void Update() => session.Poll();

    void OnDestroy() => session.Close();
}
